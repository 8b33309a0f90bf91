//! Normalising, casting and layout of image columns, done by the device: uint8 crosses the bus, and the same numbers come out as on the CPU.

use std::sync::Arc;

use forebay_gpu::kernels::{self, Channels, ConvertArgs, Output};
use forebay_gpu::{Address, Device, DeviceSlab, RawStream};

use crate::batch::DeviceArray;
use crate::decode;
use crate::error::{Error, Result};
use crate::field::{Convert, Field, FieldKind, PixelLayout, PixelType, Shapes};

/// What the device does to each column, by field; none where it stays as it is.
pub(super) type Conversions = Vec<(String, Convert)>;

/// The fields as decoders are to make them, and what is left to the device: conversions of images of one size.
pub(super) fn split(fields: &[Field]) -> (Vec<Field>, Conversions) {
    let mut conversions = Vec::new();
    let plain = |field: &Field| {
        let mut field = field.clone();
        if let FieldKind::Image { transforms, convert, .. } = &mut field.kind
            && *convert != Convert::default()
            && field.shapes != Shapes::Ragged
            && decode::fixed_output(transforms).is_some()
        {
            conversions.push((field.name.clone(), std::mem::take(convert)));
        }
        field
    };
    (fields.iter().map(plain).collect(), conversions)
}

/// Pixels of a column that are to be converted: [images, height, width, 3] of uint8.
#[derive(Clone, Debug)]
pub(super) struct Pixels {
    pub(super) images: usize,
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) convert: Convert,
}

impl Pixels {
    /// Of a column of this shape.
    pub(super) fn new(shape: &[usize], convert: &Convert) -> Result<Self> {
        match *shape {
            [images, height, width, 3] => Ok(Self { images, height, width, convert: convert.clone() }),
            _ => Err(Error::Panic { message: format!("a column of images is {shape:?}") }),
        }
    }

    /// Bytes of what they become.
    pub(super) fn bytes(&self) -> u64 {
        (self.images * self.height * self.width * 3 * self.convert.dtype.dtype().size()) as u64
    }

    /// How they lie then: shape and strides in elements.
    pub(super) fn form(&self) -> (Vec<usize>, Vec<usize>) {
        let (height, width) = (self.height, self.width);
        let image = height * width * 3;
        match self.convert.layout {
            PixelLayout::Nhwc => (vec![self.images, height, width, 3], vec![image, width * 3, 3, 1]),
            PixelLayout::Nchw => (vec![self.images, 3, height, width], vec![image, height * width, width, 1]),
            PixelLayout::ChannelsLast => (vec![self.images, 3, height, width], vec![image, 1, width * 3, 3]),
        }
    }

    /// How a kernel writes them, converted, to `to`.
    pub(super) fn output(&self, to: Address) -> Result<Output> {
        let affine = self.convert.affine();
        Ok(Output {
            element: match self.convert.dtype {
                PixelType::UInt8 => kernels::PixelType::U8,
                PixelType::Float16 => kernels::PixelType::F16,
                PixelType::BFloat16 => kernels::PixelType::BF16,
                PixelType::Float32 => kernels::PixelType::F32,
            },
            layout: if self.convert.is_planar() { kernels::Layout::Nchw } else { kernels::Layout::Nhwc },
            scale: affine.scale,
            bias: affine.bias,
            ..plain_output(to, self.height, self.width, Channels::Three)?
        })
    }

    /// Starts to convert `from` into `to` on a stream.
    #[allow(unsafe_code)]
    pub(super) fn start(
        &self,
        device: &Arc<dyn Device>,
        from: &DeviceSlab,
        to: Address,
        stream: RawStream,
    ) -> Result<()> {
        let arguments =
            ConvertArgs { out: self.output(to)?, pixels: from.address().0, images: self.images as u64 };
        // SAFETY: the column is uint8 of exactly this shape and is written to by nobody while it lives; the target has room for what the
        // kernel writes, and is the caller's. The caller guards both.
        unsafe { forebay_gpu::launch(device, &arguments, stream)? };
        Ok(())
    }
}

/// How a kernel writes pictures of this size as they are.
pub(super) fn plain_output(to: Address, height: usize, width: usize, channels: Channels) -> Result<Output> {
    let side = |length: usize| {
        u32::try_from(length).map_err(|_| Error::config(format!("an image has {length} rows or columns")))
    };
    Ok(Output::new(to.0, side(height)?, side(width)?, channels))
}

impl DeviceArray {
    /// Starts to write the array, finished, to memory of somebody else on the same device, on their stream.
    ///
    /// # Safety
    /// `to` has room for [`Self::bytes`] bytes, aligned for the dtype, and is the caller's to write on that stream.
    ///
    /// # Errors
    /// [`Error::Device`], also for a stream that is being captured.
    #[allow(unsafe_code)]
    pub unsafe fn write_to(&self, to: Address, stream: RawStream) -> Result<()> {
        // The export's end guards the column by what the stream has queued then: this.
        let export = self.memory.lend(super::Consumer::Stream(stream))?;
        // SAFETY: as the caller promises.
        unsafe { export.resident().write_to(self.offset..self.offset + self.bytes(), to, stream) }
    }

    /// Bytes of the array, in C order or channels_last.
    pub fn bytes(&self) -> u64 {
        self.shape.iter().product::<usize>() as u64 * self.dtype.size() as u64
    }
}
