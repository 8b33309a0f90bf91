//! Headers.

use std::ffi::{c_int, c_uint};

use super::image::Header;
use super::library::WORKS;
use super::{HARDWARE, Parsed, Status};
use crate::entry::{CONTEXT, Call, give};

fn header(call: &mut Call, number: u64) -> Result<Header, Status> {
    let name = call.name;
    match call.jpeg.parsed.get(&number) {
        Some(parsed) => parsed.header.ok_or(Status::INVALID_PARAMETER),
        None => {
            call.no_such("nvJPEG stream", number, name);
            Err(Status::INVALID_PARAMETER)
        }
    }
}

nvjpeg! {
    CONTEXT => fn nvjpegJpegStreamCreate(handle: u64, to: *mut u64) |call| {
        call.jpeg_handle(handle)?;
        let (number, context, origin) = (call.handle(), call.context, call.origin());
        call.jpeg.parsed.insert(number, Parsed { context, origin, handle, header: None });
        Ok(give(to, number)?)
    }

    CONTEXT.releases() => fn nvjpegJpegStreamDestroy(number: u64) |call| {
        let (name, origin) = (call.name, call.origin());
        if call.jpeg.parsed.remove(&number).is_none() {
            call.destroyed_twice("nvJPEG stream", number, name);
            return Err(Status::INVALID_PARAMETER);
        }
        call.bury(number, "nvJPEG stream", &origin);
        Ok(())
    }

    WORKS => fn nvjpegJpegStreamParseHeader(handle: u64, bytes: *const u8, length: usize, number: u64) |call| {
        call.jpeg_handle(handle)?;
        let name = call.name;
        if bytes.is_null() {
            return Err(Status::INVALID_PARAMETER);
        }
        // SAFETY: the program gives so many bytes for the call.
        let bytes = unsafe { std::slice::from_raw_parts(bytes, length) };
        let Some(parsed) = call.jpeg.parsed.get_mut(&number).filter(|parsed| parsed.handle == handle) else {
            call.no_such("nvJPEG stream of this handle", number, name);
            return Err(Status::INVALID_PARAMETER);
        };
        parsed.header = None;
        parsed.header = Some(Header::read(bytes)?);
        Ok(())
    }

    CONTEXT => fn nvjpegJpegStreamGetJpegEncoding(number: u64, to: *mut c_int) |call| {
        Ok(give(to, header(call, number)?.encoding)?)
    }

    CONTEXT => fn nvjpegJpegStreamGetFrameDimensions(number: u64, width: *mut c_uint, height: *mut c_uint) |call| {
        let header = header(call, number)?;
        give(width, header.width)?;
        Ok(give(height, header.height)?)
    }

    CONTEXT => fn nvjpegJpegStreamGetComponentsNum(number: u64, to: *mut c_uint) |call| {
        Ok(give(to, header(call, number)?.components)?)
    }

    CONTEXT => fn nvjpegJpegStreamGetChromaSubsampling(number: u64, to: *mut c_int) |call| {
        Ok(give(to, header(call, number)?.subsampling)?)
    }

    CONTEXT => fn nvjpegDecodeBatchedSupported(handle: u64, number: u64, to: *mut c_int) |call| {
        call.jpeg_handle(handle)?;
        let hardware = call.jpeg.handles[&handle].backend == HARDWARE;
        Ok(give(to, (!header(call, number)?.is_supported(hardware)).into())?)
    }
}
