//! The module of kernels, loaded once for a device.

use std::collections::HashMap;
use std::ffi::c_void;

use cudarc::driver::sys;

use super::context::{Context, is_sticky};
use super::driver::{c_name, words};
use crate::error::{Error, Result};

/// Bytes for what the driver's compiler has to say.
const LOG_BYTES: usize = 16 << 10;

/// Loaded kernels by name.
#[derive(Debug)]
pub(super) struct Kernels {
    module: sys::CUmodule,
    functions: HashMap<&'static str, sys::CUfunction>,
}

// SAFETY: handles; the driver's functions may be called with them from any thread.
unsafe impl Send for Kernels {}
// SAFETY: as above.
unsafe impl Sync for Kernels {}

impl Kernels {
    /// Compiles the kernels for the device.
    pub(super) fn load(context: &Context, ptx: &str, names: &[&'static str]) -> Result<Self> {
        let inside = context.enter()?;
        let image = c_name(ptx);
        let mut log = vec![0u8; LOG_BYTES];
        let mut options = [
            sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER,
            sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
        ];
        let mut values = [log.as_mut_ptr().cast::<c_void>(), std::ptr::without_provenance_mut(LOG_BYTES)];
        let mut module = std::ptr::null_mut();
        // SAFETY: the image ends in NUL; the log and its size are as the options say and live as long as the call.
        let code = unsafe {
            sys::cuModuleLoadDataEx(
                &mut module,
                image.as_ptr().cast(),
                options.len() as u32,
                options.as_mut_ptr(),
                values.as_mut_ptr(),
            )
        } as u32;
        if code != 0 && !is_sticky(code) {
            let end = log.iter().position(|&byte| byte == 0).unwrap_or(log.len());
            let (name, text) = words(code);
            let said = String::from_utf8_lossy(&log[..end]).trim().to_owned();
            let log = if said.is_empty() { text } else { said };
            return Err(Error::Kernels { device: context.name.clone(), name, log });
        }
        inside.check("cuModuleLoadDataEx", code)?;
        let mut kernels = Self { module, functions: HashMap::new() };
        for &name in names {
            let mut function = std::ptr::null_mut();
            // SAFETY: the module is loaded; the name ends in NUL.
            let code =
                unsafe { sys::cuModuleGetFunction(&mut function, module, c_name(name).as_ptr()) } as u32;
            if let Err(error) = inside.check("cuModuleGetFunction", code) {
                drop(inside);
                kernels.unload(context);
                return Err(error);
            }
            kernels.functions.insert(name, function);
        }
        Ok(kernels)
    }

    /// One of them.
    pub(super) fn get(&self, context: &Context, name: &'static str) -> Result<sys::CUfunction> {
        self.functions.get(name).copied().ok_or_else(|| Error::Kernels {
            device: context.name.clone(),
            name: "CUDA_ERROR_NOT_FOUND".into(),
            log: format!("there is no kernel {name}"),
        })
    }

    /// Unloads them; none of them runs any more.
    pub(super) fn unload(&self, context: &Context) {
        let Ok(_inside) = context.enter() else { return };
        // SAFETY: loaded once, unloaded once, by the device's end.
        context.note("cuModuleUnload", unsafe { sys::cuModuleUnload(self.module) } as u32);
    }
}
