//! Memory on a device, and bytes moved into it.
