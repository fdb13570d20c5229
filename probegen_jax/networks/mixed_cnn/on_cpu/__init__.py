"""What mixed CNNs need on a CPU only: an interpreter written by hand."""
