//! Bytes to a device, inside it, and back.

use std::sync::Arc;

use forebay_gpu::Device;

use crate::place::{Place, noise};

pub(crate) fn bytes_come_back_whatever_their_number_and_place(device: &Arc<dyn Device>) {
    let place = Place::new(device, 8 << 20);
    let sizes = [0, 1, 2, 3, 7, 64, 511, 512, 513, 4095, 4097, (1 << 20) + 13];
    for (seed, bytes) in sizes.into_iter().enumerate() {
        // Neither end is aligned.
        let (past, from, to) = (seed % 5, place.at.offset(3), place.at.offset((4 << 20) + 5));
        let wanted = noise(past + bytes, seed as u64);
        let (slab, mut back) = (place.host(&wanted), place.host(&vec![0; past + bytes]));
        let stream = place.stream();
        // SAFETY: all ends are the place's, and kept until the copies are done.
        unsafe {
            device.copy_in(slab.as_ptr().add(past), from, bytes, stream).unwrap();
            device.copy_within(from, to, bytes, stream).unwrap();
            device.copy_out(to, back.as_mut_ptr().add(past), bytes, stream).unwrap();
        }
        place.wait(stream);
        assert_eq!(back[past..past + bytes], wanted[past..], "{bytes} bytes");
    }
}

pub(crate) fn nothing_beside_a_copy_is_touched(device: &Arc<dyn Device>) {
    let place = Place::new(device, 1 << 16);
    let before = noise(300, 1);
    place.put(place.at, &before);
    place.put(place.at.offset(101), &[0xAB; 77]);
    let mut wanted = before.clone();
    wanted[101..178].fill(0xAB);
    assert_eq!(place.get(place.at, 300), wanted);

    let mut back = place.host(&before);
    // SAFETY: all ends are the place's, and kept until the copies are done.
    unsafe {
        device.copy_within(place.at, place.at.offset(1001), 33, place.stream()).unwrap();
        device.copy_out(place.at.offset(1001), back.as_mut_ptr().add(9), 33, place.stream()).unwrap();
    }
    place.wait(place.stream());
    assert_eq!(back[..9], before[..9]);
    assert_eq!(back[9..42], wanted[..33]);
    assert_eq!(back[42..300], before[42..]);
}
