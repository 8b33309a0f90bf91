use proptest::prelude::*;

use super::*;
use crate::dataset::tar;

const OBJECT: [u8; 16] = [7; 16];

fn id() -> ObjectId {
    ObjectId::from_bytes(OBJECT)
}

fn build(samples: &[SampleEntry]) -> ShardIndex {
    let mut builder = ShardIndexBuilder::new();
    samples.iter().for_each(|sample| builder.push(sample).unwrap());
    let end = samples.last().map_or(0, |sample| sample.range().end);
    builder.finish(id(), end).unwrap()
}

fn reopen(bytes: &[u8]) -> Result<ShardIndex, Malformed> {
    ShardIndex::from_bytes(Lease::from_vec(bytes.to_vec()), id())
}

/// A key, and the suffix, gap in tar blocks and size of each member.
type Planned = (Vec<u8>, Vec<(String, u64, u64)>);

/// Samples whose members follow each other with these gaps (in tar blocks) and sizes.
fn lay_out(plan: &[Planned]) -> Vec<SampleEntry> {
    let mut end = 0;
    let mut place = |(suffix, gap, size): &(String, u64, u64)| {
        let data_offset = end + gap * tar::BLOCK as u64;
        end = padded_end(data_offset, *size).unwrap();
        MemberEntry { suffix: Suffix::new(suffix.as_bytes()), data_offset, size: *size }
    };
    plan.iter()
        .map(|(key, members)| SampleEntry::new(key, members.iter().map(&mut place).collect()))
        .collect()
}

fn usual(count: u64) -> Vec<SampleEntry> {
    let members = |n: u64| vec![("jpg".to_owned(), 1, 100_000 + n * 7919 % 20_000), ("cls".to_owned(), 1, 3)];
    let plan: Vec<_> = (0..count).map(|n| (format!("train/{n:08}").into_bytes(), members(n))).collect();
    lay_out(&plan)
}

#[test]
fn a_member_costs_few_bytes() {
    let index = build(&usual(10_000));
    let each = index.as_bytes().len() as f64 / index.members() as f64;
    assert!(each < 8.0, "{each} bytes a member");
}

#[test]
fn a_sample_is_read_without_the_others() {
    let samples = usual(1000);
    let index = build(&samples);
    let mut bytes = index.as_bytes().to_vec();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    let index = reopen(&bytes).unwrap();
    assert_eq!(index.samples(100..200).unwrap(), samples[100..200]);
    let error = index.samples(990..1000).unwrap_err();
    assert!(error.what.contains("checksum of block 15"), "{error}");
    assert!(index.samples(900..1001).is_err());
    assert!(index.samples(1000..1000).unwrap().is_empty());
}

#[test]
fn an_index_of_another_object_is_refused() {
    let index = build(&usual(3));
    let other = ObjectId::from_bytes([8; 16]);
    let error = ShardIndex::from_bytes(Lease::from_vec(index.as_bytes().to_vec()), other).unwrap_err();
    assert!(error.what.contains("belongs to object"), "{error}");
}

#[test]
fn members_that_overlap_are_refused() {
    let mut samples = usual(2);
    samples[1].members[0].data_offset = 512;
    let mut builder = ShardIndexBuilder::new();
    builder.push(&samples[0]).unwrap();
    assert!(builder.push(&samples[1]).unwrap_err().what.contains("train/00000001.jpg"));
}

#[test]
fn a_member_behind_the_end_of_the_shard_is_refused() {
    let samples = usual(2);
    let mut builder = ShardIndexBuilder::new();
    samples.iter().for_each(|sample| builder.push(sample).unwrap());
    let index = builder.finish(id(), 1000).unwrap();
    assert!(index.samples(0..2).is_err());
}

fn plans() -> impl Strategy<Value = Vec<Planned>> {
    let size = prop_oneof![Just(0), 0..2000u64, 0..(1u64 << 40)];
    let member = ("[a-zA-Z.]{0,4}", 1..5u64, size);
    let key =
        prop_oneof![proptest::collection::vec(any::<u8>(), 1..20), "[0-9]{6}".prop_map(String::into_bytes)];
    proptest::collection::vec((key, proptest::collection::vec(member, 1..4)), 0..200)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn samples_come_back(plan in plans(), cut in any::<(u64, u64)>()) {
        let samples = lay_out(&plan);
        let index = reopen(build(&samples).as_bytes()).unwrap();
        prop_assert_eq!(index.len(), samples.len() as u64);
        let (one, two) = (cut.0 % (index.len() + 1), cut.1 % (index.len() + 1));
        let range = one.min(two)..one.max(two);
        let got = index.samples(range.clone()).unwrap();
        prop_assert_eq!(&got[..], &samples[range.start as usize..range.end as usize]);
    }

    #[test]
    fn changed_bytes_give_errors(plan in plans(), at in any::<prop::sample::Index>(), change in 1..=255u8, cut in any::<prop::sample::Index>()) {
        let samples = lay_out(&plan);
        let whole = build(&samples).as_bytes().to_vec();
        let mut changed = whole.clone();
        changed[at.index(whole.len())] ^= change;
        prop_assert!(reopen(&changed).and_then(|index| index.samples(0..index.len())).is_err());
        let short = &whole[..cut.index(whole.len())];
        prop_assert!(reopen(short).and_then(|index| index.samples(0..index.len())).is_err());
    }

    /// Checksums made right again, so that the decoder itself meets the changes.
    #[test]
    fn a_forged_index_never_panics(plan in plans(), changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let index = build(&lay_out(&plan));
        let (mut bytes, directory) = (index.as_bytes().to_vec(), index.directory.clone());
        for (at, value) in &changes {
            let at = at.index(bytes.len());
            bytes[at] = *value;
        }
        let blocks = bytes.split_off(directory.end);
        let starts: Vec<usize> = bytes[directory.clone()]
            .chunks_exact(DIRECTORY_ENTRY_BYTES)
            .map(|entry| u64::from_le_bytes(entry[..8].try_into().unwrap()) as usize)
            .collect();
        for (n, &start) in starts.iter().enumerate() {
            let end = starts.get(n + 1).copied().unwrap_or(blocks.len());
            if let Some(block) = blocks.get(start..end) {
                let at = directory.start + n * DIRECTORY_ENTRY_BYTES + 16;
                bytes[at..at + 4].copy_from_slice(&crc32c(block).to_le_bytes());
            }
        }
        let crc = checksum(&bytes);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        bytes.extend_from_slice(&blocks);
        if let Ok(index) = reopen(&bytes) {
            for block in 0..index.len().div_ceil(BLOCK_SAMPLES) {
                let _ = index.samples(block * BLOCK_SAMPLES..(block * BLOCK_SAMPLES + 64).min(index.len()));
            }
        }
    }
}
