"""What a run found, as one page that needs no network and as pictures beside it."""
