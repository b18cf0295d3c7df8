"""What a device can do: products, memory, transfers, dispatch, compiling and collectives; one file each."""
