//! What was moved and allocated, counted.

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counts since the last reset.
        #[derive(Default, Clone, Debug)]
        pub(crate) struct Counters {
            $($(#[$doc])* pub(crate) $name: u64,)*
        }

        impl Counters {
            /// The count of this name.
            pub(crate) fn get(&self, name: &str) -> Option<u64> {
                match name {
                    $(stringify!($name) => Some(self.$name),)*
                    _ => None,
                }
            }
        }
    };
}

counters! {
    /// Bytes from the host to devices.
    h2d_bytes,
    /// Copies from the host to devices.
    h2d_copies,
    /// Bytes from devices to the host.
    d2h_bytes,
    /// Copies from devices to the host.
    d2h_copies,
    /// Bytes between and within devices.
    d2d_bytes,
    /// Copies between and within devices.
    d2d_copies,
    /// Calls that allocated device memory: cuMemAlloc, cuMemAllocAsync, cuMemCreate.
    device_allocations,
    /// Calls that pinned host memory: cuMemHostAlloc, cuMemAllocHost, cuMemHostRegister.
    pinned_allocations,
    /// Bytes pinned now.
    pinned_bytes,
    /// Kernels launched.
    launches,
    /// Images decoded by nvJPEG.
    jpeg_images,
    /// Groups of them.
    jpeg_groups,
    /// Graphs launched.
    graph_launches,
    /// Streams created.
    streams,
    /// Events created.
    events,
    /// Calls that waited for a stream, an event or a context.
    synchronisations,
}
