//! What a device makes of decoded pixels: stages of transforms in the words of its kernels, and which fields it can make at all.

use forebay_gpu::kernels::{Cut, Filter, Turn};

use crate::decode::geometry::Stage;
use crate::decode::orientation::Orientation;
use crate::decode::{self, Geometry, Steps};
use crate::error::{Error, Result};
use crate::field::{Field, FieldKind, Interpolation, Transform};
use crate::pipeline::sample::SampleDecoder;

/// How a device makes a column of what is kept of its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Making {
    /// Parts of pictures of three channels, resized by this where anything is.
    Image(Option<Filter>),
    /// Parts of class indexes.
    Mask,
    /// Values as they are.
    Gather,
}

/// A stage on an upright picture as a kernel's cut of the picture as it is stored.
pub fn cut(stage: &Stage, stored: Orientation) -> Cut {
    let decode::Cut { crop, scaled, window, turn, columns_first } = decode::Cut::new(stage, stored);
    Cut {
        crop: [(crop.x, crop.width), (crop.y, crop.height)],
        scaled: [scaled.width, scaled.height],
        window: [(window.x, window.size.width), (window.y, window.size.height)],
        turn: Turn { transpose: turn.transpose, flip_x: turn.flip_x, flip_y: turn.flip_y },
        columns_first,
    }
}

/// How the device makes each of these fields from what is kept of them.
///
/// # Errors
/// A field that it can't make to the bit as the CPU does.
pub(super) fn makings(fields: &[Field]) -> Result<Vec<Making>> {
    let layout = SampleDecoder::layout_of(fields);
    let making = |(field, column): (&Field, &crate::pipeline::slot::ColumnLayout)| {
        let refused = |why: &str| {
            Err(Error::config(format!(
                "gpu_decoded_limit: field {:?} {why}; leave that out, or keep decoded samples in host memory (decoded_limit)",
                field.name
            )))
        };
        if column.row.is_none() {
            return refused("has values of differing sizes, and the device keeps fields of one size alone");
        }
        match &field.kind {
            FieldKind::Image { transforms, .. } => match filter(&Steps::new(transforms, None).then) {
                Ok(filter) => Ok(Making::Image(filter)),
                Err(why) => refused(&format!("{why} (from its first random step on)")),
            },
            FieldKind::Mask { like } => {
                match fields.iter().find(|field| field.name == *like).map(|field| &field.kind) {
                    Some(FieldKind::Image { transforms, .. })
                        if filter(&Steps::new(transforms, None).then) == Ok(None) =>
                    {
                        Ok(Making::Mask)
                    }
                    _ => refused(
                        "is a mask whose image is resized behind a random step, and the device only crops and flips masks",
                    ),
                }
            }
            _ => Ok(Making::Gather),
        }
    };
    fields.iter().zip(&layout.columns).map(making).collect()
}

/// What resizes in steps that are one stage whatever the picture's size; none where nothing does.
pub(super) fn filter(steps: &[Transform]) -> std::result::Result<Option<Filter>, &'static str> {
    let mut filter = None;
    let mut cropped = false;
    for step in steps {
        match *step {
            Transform::RandomResizedCrop { interpolation, antialias, .. }
            | Transform::Resize { interpolation, antialias, .. } => {
                if filter.is_some() || cropped {
                    return Err(
                        "is resized behind a crop or another resize, and the device makes one resize, then one crop",
                    );
                }
                filter = Some(match interpolation {
                    _ if !antialias => {
                        return Err("is resized without antialias, which the device doesn't do");
                    }
                    Interpolation::Bilinear => Filter::Bilinear,
                    Interpolation::Bicubic => Filter::Bicubic,
                    Interpolation::Nearest => {
                        return Err("is resized to the nearest pixel, which the device doesn't do");
                    }
                });
            }
            Transform::RandomCrop { .. } | Transform::CenterCrop { .. } => {
                if std::mem::replace(&mut cropped, true) {
                    return Err("is cropped twice, and the device makes one resize, then one crop");
                }
            }
            Transform::RandomHorizontalFlip { .. } => {}
        }
    }
    Ok(filter)
}

/// The one stage of a geometry; none where it has several.
pub(crate) fn only_stage(geometry: Geometry) -> Option<Stage> {
    <[Stage; 1]>::try_from(geometry.stages).ok().map(|[stage]| stage)
}
