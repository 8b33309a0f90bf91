//! Model weights: tensors of safetensors files, from the cache into memory.
//!
//! URL → files (`find`) → where each tensor lies ([`header`]) → parts of tensors as bytes ([`slice`]) → memory that they share and reads that fill
//! it (`layout`) → tensors in the file's order, as they arrive.

mod device;
pub mod dtype;
mod files;
mod find;
mod ground;
pub mod header;
mod held;
mod layout;
mod load;
mod model;
mod pins;
pub mod slice;
mod slots;
mod source;

pub use device::{Budget, Coming, DeviceLoading, Onto, Step};
pub use dtype::Dtype;
pub use files::{Bad, Brought, Checked, Other};
pub use header::{Header, HeaderError, Tensor};
pub use layout::Member;
pub use load::{Loaded, Loading};
pub use model::{File, Settings, Wanted, Weights};
pub use source::Came;
