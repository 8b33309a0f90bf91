//! Sizes, boxes, and the eight ways in which a camera may have stored a picture.
//!
//! Everything above this module thinks upright; everything below in stored rows and columns. The way between them is a
//! transposition followed by mirrorings, and it commutes with cropping and with separable resizing, so that a rotated
//! photograph is decoded as partially as any other and turned when it is small.

use std::fmt;

/// Width and height in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.width, self.height)
    }
}

impl Size {
    /// Width times height.
    pub fn pixels(self) -> u64 {
        u64::from(self.width) * u64::from(self.height)
    }

    /// Whether it has no pixels.
    pub fn is_empty(self) -> bool {
        self.width == 0 || self.height == 0
    }

    fn transposed(self) -> Self {
        Self { width: self.height, height: self.width }
    }
}

/// Part of an image, inside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rect {
    /// First column.
    pub x: u32,
    /// First row.
    pub y: u32,
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

impl Rect {
    /// All of an image.
    pub fn all(size: Size) -> Self {
        Self { x: 0, y: 0, width: size.width, height: size.height }
    }

    /// Its width and height.
    pub fn size(self) -> Size {
        Size { width: self.width, height: self.height }
    }

    /// Whether it lies within an image of this size.
    pub fn inside(self, size: Size) -> bool {
        u64::from(self.x) + u64::from(self.width) <= u64::from(size.width)
            && u64::from(self.y) + u64::from(self.height) <= u64::from(size.height)
    }

    /// Whether it has no pixels.
    pub fn is_empty(self) -> bool {
        self.size().is_empty()
    }
}

/// A box that may reach beyond its image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// First column; negative left of the image.
    pub x: i64,
    /// First row; negative above the image.
    pub y: i64,
    /// Columns and rows.
    pub size: Size,
}

impl Window {
    /// All of an image.
    pub fn all(size: Size) -> Self {
        Self { x: 0, y: 0, size }
    }

    /// The window as a box, if it lies within an image of this size.
    pub fn as_rect_in(self, size: Size) -> Option<Rect> {
        let rect = Rect {
            x: u32::try_from(self.x).ok()?,
            y: u32::try_from(self.y).ok()?,
            width: self.size.width,
            height: self.size.height,
        };
        rect.inside(size).then_some(rect)
    }
}

/// How a stored picture becomes upright: transposed first, then mirrored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Orientation {
    /// Rows become columns.
    pub transpose: bool,
    /// Left becomes right, after the transposition.
    pub flip_x: bool,
    /// Top becomes bottom, after the transposition.
    pub flip_y: bool,
}

impl Orientation {
    /// Of EXIF's tag 274; `None` for a value that has no meaning, which viewers and Pillow ignore.
    pub fn from_exif(value: u8) -> Option<Self> {
        let (transpose, flip_x, flip_y) = match value {
            1 => (false, false, false),
            2 => (false, true, false),
            3 => (false, true, true),
            4 => (false, false, true),
            5 => (true, false, false),
            6 => (true, true, false),
            7 => (true, true, true),
            8 => (true, false, true),
            _ => return None,
        };
        Some(Self { transpose, flip_x, flip_y })
    }

    /// The upright size of a stored size; also the other way round.
    pub fn size(self, size: Size) -> Size {
        if self.transpose { size.transposed() } else { size }
    }

    /// The stored box behind an upright one, in an image of this upright size.
    pub fn to_stored(self, window: Window, upright: Size) -> Window {
        let Window { mut x, mut y, size } = window;
        if self.flip_x {
            x = i64::from(upright.width) - x - i64::from(size.width);
        }
        if self.flip_y {
            y = i64::from(upright.height) - y - i64::from(size.height);
        }
        if self.transpose { Window { x: y, y: x, size: size.transposed() } } else { Window { x, y, size } }
    }

    /// Followed by a left-right mirroring of the upright picture.
    pub fn mirrored(self, mirror: bool) -> Self {
        Self { flip_x: self.flip_x ^ mirror, ..self }
    }
}

/// The orientation in an EXIF block (a TIFF header and its entries); upright where there is none or it is damaged.
pub(super) fn from_exif_chunk(chunk: &[u8]) -> Orientation {
    image::metadata::Orientation::from_exif_chunk(chunk)
        .and_then(|found| Orientation::from_exif(found.to_exif()))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(orientation: Orientation, stored: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let mut rows: Vec<Vec<u8>> = if orientation.transpose {
            (0..stored[0].len()).map(|x| stored.iter().map(|row| row[x]).collect()).collect()
        } else {
            stored.to_vec()
        };
        if orientation.flip_x {
            rows.iter_mut().for_each(|row| row.reverse());
        }
        if orientation.flip_y {
            rows.reverse();
        }
        rows
    }

    #[test]
    fn exif_values_turn_a_picture_as_the_standard_says() {
        // 1 2 3   What the standard puts in the first row and column for each value.
        // 4 5 6
        let stored = vec![vec![1, 2, 3], vec![4, 5, 6]];
        let first_rows: [&[u8]; 8] =
            [&[1, 2, 3], &[3, 2, 1], &[6, 5, 4], &[4, 5, 6], &[1, 4], &[4, 1], &[6, 3], &[3, 6]];
        for (value, row) in (1..=8).zip(first_rows) {
            assert_eq!(apply(Orientation::from_exif(value).unwrap(), &stored)[0], row, "value {value}");
        }
        assert_eq!(Orientation::from_exif(0), None);
        assert_eq!(Orientation::from_exif(9), None);
    }

    #[test]
    fn a_box_cut_before_turning_equals_one_cut_after() {
        let stored: Vec<Vec<u8>> = (0..4).map(|y| (0..7).map(|x| y * 7 + x).collect()).collect();
        for value in 1..=8 {
            let orientation = Orientation::from_exif(value).unwrap();
            let upright = apply(orientation, &stored);
            let size = orientation.size(Size { width: 7, height: 4 });
            let window = Window { x: 1, y: 1, size: Size { width: 2, height: 1 } };
            let inner = orientation.to_stored(window, size);
            let cut: Vec<Vec<u8>> = stored[inner.y as usize..][..inner.size.height as usize]
                .iter()
                .map(|row| row[inner.x as usize..][..inner.size.width as usize].to_vec())
                .collect();
            assert_eq!(apply(orientation, &cut), [upright[1][1..3].to_vec()], "value {value}");
        }
    }
}
