//! What the driver says of a device before anybody uses it.

use std::ffi::c_char;

use cudarc::driver::sys;

use super::context::Context;
use super::driver;
use crate::error::{Error, Result};

/// The device of this number among those that the process sees.
pub(super) fn device_at(index: i32) -> Result<sys::CUdevice> {
    let mut device = 0;
    // SAFETY: writes one handle.
    match unsafe { sys::cuDeviceGet(&mut device, index) } as u32 {
        0 => Ok(device),
        code => {
            let (name, text) = driver::words(code);
            let device = format!("cuda:{index}").into();
            Err(Error::Driver { call: "cuDeviceGet", device, code, name, text })
        }
    }
}

/// What its maker calls it.
pub(super) fn model(device: sys::CUdevice) -> String {
    // SAFETY: writes at most so many bytes, and ends them with NUL.
    let model = text(|to, room| unsafe { sys::cuDeviceGetName(to, room, device) } as u32);
    model.unwrap_or_else(|| "unnamed".into())
}

/// Its place on the PCI bus, where the driver tells.
pub(super) fn pci(device: sys::CUdevice) -> Option<String> {
    // SAFETY: as above.
    text(|to, room| unsafe { sys::cuDeviceGetPCIBusId(to, room, device) } as u32)
}

fn text(ask: impl FnOnce(*mut c_char, i32) -> u32) -> Option<String> {
    let mut text = [0u8; 256];
    let code = ask(text.as_mut_ptr().cast(), text.len() as i32);
    let end = text.iter().position(|&byte| byte == 0)?;
    (code == 0).then(|| String::from_utf8_lossy(&text[..end]).into_owned())
}

/// As nvidia-smi writes it behind "GPU-" or "MIG-"; of an instance of a divided device its own, by this version of the function.
pub(super) fn uuid(device: sys::CUdevice) -> Option<String> {
    let mut uuid = sys::CUuuid { bytes: [0; 16] };
    // SAFETY: writes 16 bytes.
    let code = unsafe { sys::cuDeviceGetUuid_v2(&mut uuid, device) } as u32;
    let hex: String = uuid.bytes.iter().map(|byte| format!("{:02x}", *byte as u8)).collect();
    (code == 0)
        .then(|| format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]))
}

/// With what it begins: only the name of an instance of a divided device tells it from a whole one ("NVIDIA A100-SXM4-40GB MIG 1g.5gb").
pub(super) fn uuid_text(model: &str, uuid: &str) -> String {
    let kind = if model.contains(" MIG ") { "MIG" } else { "GPU" };
    format!("{kind}-{uuid}")
}

/// An attribute; one that the driver doesn't know is an error of its, and counts as 0.
pub(super) fn attribute(device: sys::CUdevice, attribute: sys::CUdevice_attribute) -> i32 {
    let mut value = 0;
    // SAFETY: writes one number.
    let code = unsafe { sys::cuDeviceGetAttribute(&mut value, attribute, device) } as u32;
    if code == 0 { value } else { 0 }
}

/// Compute capability.
pub(super) fn capability(device: sys::CUdevice) -> (i32, i32) {
    use sys::CUdevice_attribute as A;
    (
        attribute(device, A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR),
        attribute(device, A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR),
    )
}

/// Bytes of its memory.
pub(super) fn total_bytes(context: &Context) -> Result<u64> {
    let mut total = 0;
    // SAFETY: writes one number.
    let code = unsafe { sys::cuDeviceTotalMem_v2(&mut total, context.device) } as u32;
    context.check("cuDeviceTotalMem", code)?;
    Ok(total as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_says_whether_the_device_is_a_part_of_one() {
        assert_eq!(uuid_text("NVIDIA H100 80GB HBM3", "12"), "GPU-12");
        assert_eq!(uuid_text("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "12"), "MIG-12");
    }
}
