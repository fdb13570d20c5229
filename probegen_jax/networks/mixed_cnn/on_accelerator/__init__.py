"""Mixed CNNs as an accelerator wants them: loops of known length, few and large operations."""
