//! Which of the machine's devices a process sees: CUDA_VISIBLE_DEVICES, as the real driver reads it.

use crate::settings::Settings;

/// The numbers of the devices that CUDA_VISIBLE_DEVICES leaves, in its order: indexes, or beginnings of UUIDs, up to the first that names none
/// or one that was named.
pub(crate) fn devices(settings: &Settings) -> Vec<usize> {
    match std::env::var("CUDA_VISIBLE_DEVICES") {
        Ok(list) => parse(&list, settings.devices),
        Err(_) => (0..settings.devices).collect(),
    }
}

fn parse(list: &str, devices: usize) -> Vec<usize> {
    let mut found = Vec::new();
    for word in list.split(',').map(str::trim) {
        let device = match word.parse::<usize>() {
            Ok(number) => Some(number).filter(|number| *number < devices),
            Err(_) if word.starts_with("GPU-") && word.len() > 4 => {
                let mut matching = (0..devices).filter(|number| {
                    uuid_text(*number).starts_with(&word.to_lowercase().replace("gpu-", "GPU-"))
                });
                matching.next().filter(|_| matching.next().is_none())
            }
            Err(_) => None,
        };
        match device {
            Some(device) if !found.contains(&device) => found.push(device),
            Some(_) => return Vec::new(),
            None => break,
        }
    }
    found
}

/// The UUID of a device of the machine.
pub(crate) fn uuid(number: usize) -> [u8; 16] {
    let mut uuid = *b"\xf0\xbeFOREBAY-FAKE\0\0";
    uuid[0] = uuid[0].wrapping_add(number as u8);
    uuid[15] = number as u8;
    uuid
}

/// As nvidia-smi writes it.
fn uuid_text(number: usize) -> String {
    let hex: String = uuid(number).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("GPU-{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// The number of a device on the PCI bus.
pub(crate) fn bus(number: usize) -> usize {
    number + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_named_by_index_or_uuid_up_to_the_first_unknown_one() {
        assert_eq!(parse("1,0", 2), [1, 0]);
        assert_eq!(parse("0,7,1", 2), [0]);
        assert_eq!(parse("", 2), [0usize; 0]);
        assert_eq!(parse("-1", 2), [0usize; 0]);
        assert_eq!(parse("0,0", 2), [0usize; 0]);
        assert_eq!(parse(&uuid_text(1), 2), [1]);
        assert_eq!(parse(&uuid_text(1)[..8], 2), [1]);
        assert_eq!(parse("GPU-f", 2), [0usize; 0], "two devices begin with it");
        assert_eq!(parse("MIG-1", 2), [0usize; 0]);
    }
}
