//! The functions of the driver, under the names that programs load them by.
//!
//! A room per family. Each function is an entry (`entry`) with its rules and a body that changes the state.

#![allow(
    non_snake_case,
    clippy::missing_safety_doc,
    clippy::too_many_arguments,
    reason = "names, arguments and contracts are those of the CUDA driver API's reference"
)]

/// Declares functions of the driver: `RULES fn name(arguments) |call| { body }`.
macro_rules! driver {
    ($($rules:expr => fn $name:ident($($argument:ident: $type:ty),* $(,)?) |$call:pat_param| $body:block)*) => {
        $(
            #[doc = concat!("`", stringify!($name), "` of the CUDA driver API.")]
            #[unsafe(no_mangle)]
            pub unsafe extern "C" fn $name($($argument: $type),*) -> i32 {
                $crate::entry::call::<$crate::codes::Code>(stringify!($name), $rules, |$call| $body)
            }
        )*

        /// The functions of this room, by name.
        pub(super) fn functions() -> Vec<(&'static str, *const std::ffi::c_void)> {
            vec![$((stringify!($name), $name as *const std::ffi::c_void)),*]
        }
    };
}

pub mod capture;
pub mod context;
pub mod copy;
pub mod device;
pub mod event;
pub mod host;
pub mod launch;
pub mod lookup;
pub mod memory;
pub mod module;
pub mod pointer;
pub mod stream;
pub mod vmm;

pub use self::{
    capture::*, context::*, copy::*, device::*, event::*, host::*, launch::*, lookup::*, memory::*,
    module::*, pointer::*, stream::*, vmm::*,
};

/// Every function, by name.
fn functions() -> Vec<(&'static str, *const std::ffi::c_void)> {
    let rooms = [
        capture::functions,
        context::functions,
        copy::functions,
        device::functions,
        event::functions,
        host::functions,
        launch::functions,
        lookup::functions,
        memory::functions,
        module::functions,
        pointer::functions,
        stream::functions,
        vmm::functions,
    ];
    rooms.iter().flat_map(|room| room()).collect()
}
