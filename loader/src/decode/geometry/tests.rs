use proptest::prelude::*;

use super::*;

const BILINEAR: Filter = Filter { interpolation: Interpolation::Bilinear, antialias: true };

fn size(width: u32, height: u32) -> Size {
    Size { width, height }
}

fn rrc() -> Transform {
    Transform::RandomResizedCrop {
        size: (224, 224),
        scale: (0.08, 1.0),
        ratio: (0.75, 4.0 / 3.0),
        interpolation: Interpolation::Bilinear,
        antialias: true,
    }
}

fn shorter(side: u32, max_size: Option<u32>) -> Transform {
    let size = ResizeTo::Shorter { side, max_size };
    Transform::Resize { size, interpolation: Interpolation::Bilinear, antialias: true }
}

fn geometry(transforms: &[Transform], input: Size, draws: &dyn Draws) -> Geometry {
    resolve(transforms, input, draws, &Limits::default()).unwrap()
}

fn never(_: u32, _: u32) -> f64 {
    0.999_999
}

#[test]
fn random_resized_crop_and_flip_are_one_crop_and_one_resize() {
    let flip = Transform::RandomHorizontalFlip { p: 0.5 };
    let plan = geometry(&[rrc(), flip], size(500, 375), &|operation, draw| match (operation, draw) {
        (0, 0) => 0.5, // area: 0.54 of 187,500 = 101,250
        (0, 1) => 0.5, // ratio: 1
        (0, 2) => 0.0,
        (0, 3) => 1.0 - 1e-9,
        _ => 0.25,
    });
    let stage = plan.stages[0];
    assert_eq!(plan.stages.len(), 1);
    assert_eq!(stage.crop, Rect { x: 182, y: 0, width: 318, height: 318 });
    assert_eq!((stage.scaled, stage.filter, stage.mirror), (size(224, 224), Some(BILINEAR), true));
}

#[test]
fn ten_boxes_that_do_not_fit_end_in_the_middle() {
    // Ratio 4/3 of the whole area does not fit a tall picture.
    let plan = geometry(&[rrc()], size(300, 1000), &|_, _| 1.0 - 1e-12);
    assert_eq!(plan.stages[0].crop, Rect { x: 0, y: 300, width: 300, height: 400 });
    let plan = geometry(&[rrc()], size(1000, 300), &|_, _| 1.0 - 1e-12);
    assert_eq!(plan.stages[0].crop, Rect { x: 300, y: 0, width: 400, height: 300 });
}

#[test]
fn the_longer_side_follows_and_stops_at_max_size() {
    let output = |input, side, max| geometry(&[shorter(side, max)], input, &never).output();
    assert_eq!(output(size(500, 375), 256, None), size(341, 256));
    assert_eq!(output(size(375, 500), 256, None), size(256, 341));
    assert_eq!(output(size(1000, 100), 256, Some(512)), size(512, 51));
    assert_eq!(output(size(1, 10_000), 100, Some(200)), size(1, 200));
}

#[test]
fn the_middle_of_a_smaller_picture_is_padded() {
    let plan = geometry(&[Transform::CenterCrop { size: (10, 10) }], size(7, 20), &never);
    assert_eq!(plan.stages[0].window, Window { x: -1, y: 5, size: size(10, 10) });
    // Python rounds half to even: (7 - 4) / 2 = 1.5 -> 2, (9 - 4) / 2 = 2.5 -> 2.
    let plan = geometry(&[Transform::CenterCrop { size: (4, 4) }], size(7, 9), &never);
    assert_eq!(plan.stages[0].window, Window { x: 2, y: 2, size: size(4, 4) });
}

#[test]
fn a_random_crop_reaches_every_place_and_moves_a_smaller_picture_in_its_padding() {
    let crop = |pad_if_needed| [Transform::RandomCrop { size: (4, 6), pad_if_needed }];
    let at = |input, y: f64, x: f64| {
        geometry(&crop(true), input, &|_, number| if number == 0 { y } else { x }).stages[0].window
    };
    assert_eq!(at(size(10, 9), 0.0, 0.999_999), Window { x: 4, y: 0, size: size(6, 4) });
    assert_eq!(at(size(10, 9), 0.999_999, 0.5), Window { x: 2, y: 5, size: size(6, 4) });
    assert_eq!(at(size(4, 9), 0.5, 0.0), Window { x: -2, y: 3, size: size(6, 4) });
    assert_eq!(at(size(4, 9), 0.5, 0.999_999), Window { x: 0, y: 3, size: size(6, 4) });
    let error = resolve(&crop(false), size(10, 3), &never, &Limits::default()).unwrap_err().to_string();
    assert!(error.contains("6x4") && error.contains("10x3") && error.contains("pad_if_needed"), "{error}");
    assert!(resolve(&crop(false), size(6, 4), &never, &Limits::default()).is_ok());
}

#[test]
fn resize_then_center_crop_is_one_stage() {
    let plan =
        geometry(&[shorter(256, None), Transform::CenterCrop { size: (224, 224) }], size(500, 375), &never);
    assert_eq!(plan.stages.len(), 1);
    assert_eq!(plan.stages[0].scaled, size(341, 256));
    assert_eq!(plan.stages[0].window, Window { x: 58, y: 16, size: size(224, 224) });
}

#[test]
fn what_does_not_compose_becomes_another_stage() {
    let center = |side| Transform::CenterCrop { size: (side, side) };
    assert_eq!(geometry(&[shorter(256, None), rrc()], size(500, 375), &never).stages.len(), 2);
    assert_eq!(geometry(&[center(100), center(200)], size(500, 375), &never).stages.len(), 2);
    assert_eq!(geometry(&[center(600), shorter(64, None)], size(500, 375), &never).stages.len(), 2);
    assert_eq!(
        geometry(&[center(200), center(100), shorter(64, None)], size(500, 375), &never).stages.len(),
        1
    );
}

#[test]
fn the_output_is_fixed_where_the_last_resize_or_crop_fixes_it() {
    let flip = Transform::RandomHorizontalFlip { p: 0.5 };
    assert_eq!(fixed_output(&[rrc(), flip.clone()]), Some((224, 224)));
    assert_eq!(fixed_output(&[shorter(256, None), Transform::CenterCrop { size: (3, 4) }]), Some((3, 4)));
    assert_eq!(fixed_output(&[rrc(), shorter(256, None)]), None);
    assert_eq!(fixed_output(&[flip]), None);
    assert_eq!(fixed_output(&[]), None);
}

#[test]
fn an_output_beyond_the_limits_is_an_error() {
    let center = [Transform::CenterCrop { size: (100_000, 100_000) }];
    let error = resolve(&center, size(5, 5), &never, &Limits::default()).unwrap_err();
    assert!(error.what.contains("30000000000 bytes"), "{error}");
    assert!(
        resolve(&[Transform::CenterCrop { size: (0, 1) }], size(5, 5), &never, &Limits::default()).is_err()
    );
}

/// The picture as where each pixel came from; crops, mirrors and pads one transform at a time.
fn model(transforms: &[Transform], input: Size, draws: &dyn Draws) -> Vec<Vec<Option<(u32, u32)>>> {
    let mut rows: Vec<Vec<_>> =
        (0..input.height).map(|y| (0..input.width).map(|x| Some((x, y))).collect()).collect();
    for (operation, transform) in transforms.iter().enumerate() {
        match transform {
            Transform::CenterCrop { size: (height, width) } => {
                let now = size(rows[0].len() as u32, rows.len() as u32);
                let window = tv::center_crop(now, size(*width, *height));
                let at =
                    |x: i64, y: i64| *rows.get(usize::try_from(y).ok()?)?.get(usize::try_from(x).ok()?)?;
                rows = (0..i64::from(*height))
                    .map(|y| (0..i64::from(*width)).map(|x| at(x + window.x, y + window.y)).collect())
                    .collect();
            }
            Transform::RandomHorizontalFlip { p } if draws.uniform(operation as u32, 0) < *p => {
                rows.iter_mut().for_each(|row| row.reverse());
            }
            _ => {}
        }
    }
    rows
}

fn run(geometry: &Geometry) -> Vec<Vec<Option<(u32, u32)>>> {
    let input = geometry.input;
    let mut rows: Vec<Vec<_>> =
        (0..input.height).map(|y| (0..input.width).map(|x| Some((x, y))).collect()).collect();
    for stage in &geometry.stages {
        let at = |x: u32, y: u32| {
            let inner = if stage.mirror { stage.output().width - 1 - x } else { x };
            let (x, y) = (i64::from(inner) + stage.window.x, i64::from(y) + stage.window.y);
            let inside = (0..i64::from(stage.crop.width)).contains(&x)
                && (0..i64::from(stage.crop.height)).contains(&y);
            if inside {
                rows[y as usize + stage.crop.y as usize][x as usize + stage.crop.x as usize]
            } else {
                None
            }
        };
        rows = (0..stage.output().height)
            .map(|y| (0..stage.output().width).map(|x| at(x, y)).collect())
            .collect();
    }
    rows
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn composed_crops_and_mirrors_equal_one_at_a_time(
        (width, height) in (1u32..12, 1u32..12),
        steps in prop::collection::vec(prop_oneof![
            (1u32..14, 1u32..14).prop_map(|size| Transform::CenterCrop { size }),
            Just(Transform::RandomHorizontalFlip { p: 1.0 }),
        ], 0..6),
    ) {
        let plan = geometry(&steps, size(width, height), &never);
        prop_assert_eq!(run(&plan), model(&steps, size(width, height), &never));
    }

    #[test]
    fn a_random_box_lies_in_its_picture(
        (width, height) in (1u32..3000, 1u32..3000),
        scale in 0.01f64..1.0,
        ratio in 0.1f64..3.0,
        seed in any::<u64>(),
    ) {
        let draw = |number: u32| {
            let mixed = (seed ^ u64::from(number).wrapping_mul(0x9E37_79B9_7F4A_7C15)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
            (mixed >> 11) as f64 / (1u64 << 53) as f64
        };
        let rect = tv::random_resized_crop(size(width, height), (scale, 1.0), (ratio, ratio * 2.0), draw);
        prop_assert!(rect.inside(size(width, height)) && !rect.is_empty());
    }
}
