//! Which tensors share memory, where each lies in it, and what is read for it. Pure.
//!
//! Large tensors have memory of their own, small neighbours share some, so that neither a system call nor a copy is spent on each. In host
//! memory tensors lie as they do in the file, and are read where they stay; those that would lie askew there, or in pieces, are copied. In a
//! device's memory every tensor begins at a multiple of 256 bytes, as its own allocations do.

use std::ops::Range;

use forebay_cache::object::BLOCK_BYTES;

use super::slice::{Part, Stripe};

/// From this size on a tensor has memory of its own: what its neighbours would hold back is less than a tenth of it.
const LARGE_BYTES: u64 = 1 << 20;
/// What small neighbours share at most.
pub(super) const SHARED_BYTES: u64 = 8 << 20;
/// Between two runs of one tensor: less is read along. At 2 GB/s and 100 µs a request, 64 KiB cost a third of another request.
const ALONG_BYTES: u64 = 64 << 10;
/// Alignment of copied tensors and of shared memory in the host: a cache line.
const HOST_ALIGNMENT: u64 = 64;
/// Alignment of every tensor in a device's memory: cudaMalloc's.
const DEVICE_ALIGNMENT: u64 = 256;

/// A tensor, or a part of one, that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Want {
    /// Its place among what was asked for.
    pub(super) number: usize,
    /// Which file it is in.
    pub(super) file: usize,
    /// Its bytes.
    pub(super) part: Part,
    /// Bytes of an element: where host memory may begin.
    pub(super) element: u64,
}

/// Where tensors go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Placement {
    Host,
    Device,
}

/// Tensors of one file that share memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) file: usize,
    /// Bytes of the memory.
    pub(super) bytes: u64,
    pub(super) members: Vec<Member>,
    /// The file's bytes that it is; none where members are copied to their places.
    pub(super) range: Option<Range<u64>>,
}

/// One tensor of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Which of those that were asked for.
    pub want: usize,
    /// Where it begins in the group's memory, in bytes.
    pub offset: u64,
    /// Its bytes.
    pub bytes: u64,
}

/// Groups the wants, which stand in the order of their files and of their first bytes.
pub(super) fn groups(wants: &[Want], placement: Placement) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for (number, want) in wants.iter().enumerate() {
        let lies = want.part.as_one().filter(|range| {
            placement == Placement::Host
                && range.start.is_multiple_of(want.element.max(1))
                && !range.is_empty()
        });
        let bytes = want.part.bytes;
        let last = groups.last_mut().filter(|group| group.takes(want, lies.as_ref()));
        let group = match last {
            Some(group) => group,
            None => {
                groups.push(Group { file: want.file, bytes: 0, members: Vec::new(), range: None });
                let Some(group) = groups.last_mut() else { continue };
                group
            }
        };
        let offset = match &lies {
            Some(range) => {
                // From a multiple of every element's size on: frameworks count offsets in elements.
                let first = range.start / HOST_ALIGNMENT * HOST_ALIGNMENT;
                let start = group.range.as_ref().map_or(first, |all| all.start);
                group.range = Some(start..range.end);
                range.start - start
            }
            None if bytes == 0 => group.bytes,
            None => group.bytes.next_multiple_of(match placement {
                Placement::Host => HOST_ALIGNMENT,
                Placement::Device => DEVICE_ALIGNMENT,
            }),
        };
        group.bytes = group.bytes.max(offset + bytes);
        group.members.push(Member { want: number, offset, bytes });
    }
    if placement == Placement::Device {
        // Tensors without bytes are on the device too.
        groups.iter_mut().for_each(|group| group.bytes = group.bytes.max(1));
    }
    groups
}

impl Group {
    fn takes(&self, want: &Want, lies: Option<&Range<u64>>) -> bool {
        // A large one is the first that has bytes, and stays alone with those that have none.
        let first = self.members.iter().find(|member| member.bytes > 0);
        let small = first.is_none_or(|member| member.bytes < LARGE_BYTES);
        let all = self.bytes.next_multiple_of(DEVICE_ALIGNMENT) + want.part.bytes;
        let fits = small && want.part.bytes < LARGE_BYTES && all <= SHARED_BYTES;
        // What has no bytes lies anywhere.
        let nothing = want.part.bytes == 0 || self.bytes == 0 && self.range.is_none();
        let follows = match (&self.range, lies) {
            (Some(all), Some(range)) => all.end == range.start,
            (None, None) => true,
            _ => false,
        };
        self.file == want.file && (want.part.bytes == 0 || fits) && (follows || nothing)
    }

    /// What is read for its members, where they are copied.
    pub(super) fn spans<'a>(&'a self, wants: &'a [Want]) -> impl Iterator<Item = Span> + 'a {
        let placed = self.members.iter().flat_map(|member| {
            let moved = |stripe: Stripe| Stripe { to: stripe.to + member.offset, ..stripe };
            wants[member.want].part.stripes().map(moved)
        });
        Spans::new(placed)
    }
}

/// One read of a file, inside one block, and where its bytes go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) range: Range<u64>,
    pub(super) stripes: Vec<Stripe>,
}

impl Span {
    /// The bytes of memory from its first to its last one.
    pub(super) fn target(&self) -> Range<u64> {
        let start = self.stripes.first().map_or(0, |stripe| stripe.to);
        start..self.stripes.last().map_or(start, |stripe| stripe.to + stripe.bytes())
    }

    /// True where its bytes go to the memory as they lie in the file.
    pub(super) fn is_one(&self) -> bool {
        matches!(&self.stripes[..], [one] if one.count == 1)
    }

    /// Copies what was read to memory that begins at `start` of the group's.
    pub(super) fn scatter(&self, read: &[u8], memory: &mut [u8], start: u64) {
        for stripe in &self.stripes {
            for run in 0..stripe.count {
                let from = place(stripe.from + run * stripe.step - self.range.start);
                let to = place(stripe.to + run * stripe.len - start);
                let len = place(stripe.len);
                memory[to..to + len].copy_from_slice(&read[from..from + len]);
            }
        }
    }
}

fn place(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// Reads for stripes in the file's order: each inside one block, what lies between two runs read along where it is little.
pub(super) struct Spans<I: Iterator<Item = Stripe>> {
    stripes: I,
    /// What is left of a stripe that was cut, the next one last.
    left: Vec<Stripe>,
}

impl<I: Iterator<Item = Stripe>> Spans<I> {
    fn new(stripes: I) -> Self {
        Self { stripes, left: Vec::new() }
    }

    /// The next stripe that begins in `allowed`: as much of it as lies before the block's end and has no large gaps.
    fn piece(&mut self, allowed: &Range<u64>, block_end: u64) -> Option<Stripe> {
        let next = self.left.pop().or_else(|| self.stripes.next())?;
        if !allowed.contains(&next.from) {
            self.left.push(next);
            return None;
        }
        let without = |runs: u64| Stripe {
            from: next.from + runs * next.step,
            to: next.to + runs * next.len,
            count: next.count - runs,
            ..next
        };
        if next.from + next.len > block_end {
            // A run that goes on in the next block is a stripe of its own.
            let len = block_end - next.from;
            let (to, left) = (next.to + len, next.len - len);
            self.left.extend(Some(without(1)).filter(|behind| behind.count > 0));
            self.left.push(Stripe { from: block_end, step: left, len: left, count: 1, to });
            return Some(Stripe { step: len, len, count: 1, ..next });
        }
        let dense = next.step - next.len <= ALONG_BYTES;
        let inside = (block_end - next.from - next.len) / next.step.max(1) + 1;
        let count = if dense { next.count.min(inside) } else { 1 };
        self.left.extend(Some(without(count)).filter(|behind| behind.count > 0));
        Some(Stripe { count, ..next })
    }
}

impl<I: Iterator<Item = Stripe>> Iterator for Spans<I> {
    type Item = Span;

    fn next(&mut self) -> Option<Span> {
        let first = self.piece(&(0..u64::MAX), u64::MAX)?;
        let block_end = (first.from / BLOCK_BYTES + 1) * BLOCK_BYTES;
        self.left.push(first);
        let first = self.piece(&(0..u64::MAX), block_end)?;
        let mut span = Span { range: first.from..first.end(), stripes: vec![as_run(first)] };
        loop {
            let allowed = span.range.end..block_end.min(span.range.end + ALONG_BYTES + 1);
            let Some(piece) = self.piece(&allowed, block_end) else { return Some(span) };
            span.range.end = piece.end();
            span.add(as_run(piece));
        }
    }
}

/// Runs without gaps are one.
fn as_run(stripe: Stripe) -> Stripe {
    if stripe.step == stripe.len {
        let len = stripe.bytes();
        return Stripe { step: len, len, count: 1, ..stripe };
    }
    stripe
}

impl Span {
    /// A further stripe; one that goes on where the last one ends, here and there, makes it longer.
    fn add(&mut self, stripe: Stripe) {
        match self.stripes.last_mut() {
            Some(last)
                if (last.count, stripe.count) == (1, 1)
                    && last.from + last.len == stripe.from
                    && last.to + last.len == stripe.to =>
            {
                last.len += stripe.len;
                last.step = last.len;
            }
            _ => self.stripes.push(stripe),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Dtype, Tensor};
    use super::*;

    /// A tensor's type and shape, and a part of it where not all is wanted.
    type Shaped = (Dtype, Vec<u64>, Option<Vec<Range<u64>>>);

    /// Tensors one behind the other.
    fn wants(tensors: &[Shaped]) -> Vec<Want> {
        let mut start = 1000;
        tensors
            .iter()
            .map(|(dtype, shape, part)| {
                let bytes = shape.iter().product::<u64>() * dtype.bits() / 8;
                let range = start..start + bytes;
                start += bytes;
                let tensor = Tensor { name: String::new(), dtype: *dtype, shape: shape.clone(), range };
                let part = part.as_ref().map(|part| Part::new(&tensor, part).unwrap());
                Want {
                    number: 0,
                    file: 0,
                    part: part.unwrap_or_else(|| Part::whole(&tensor)),
                    element: dtype.bits() / 8,
                }
            })
            .collect()
    }

    /// What a group's memory holds: for each byte the file's byte, as reads bring it.
    fn filled(group: &Group, wants: &[Want]) -> Vec<Option<u64>> {
        let mut memory = vec![None; usize::try_from(group.bytes).unwrap()];
        if let Some(range) = &group.range {
            return range.clone().map(Some).collect();
        }
        for span in group.spans(wants) {
            assert_eq!(
                span.range.start / BLOCK_BYTES,
                (span.range.end - 1) / BLOCK_BYTES,
                "inside one block"
            );
            for stripe in &span.stripes {
                for run in 0..stripe.count {
                    for byte in 0..stripe.len {
                        let from = stripe.from + run * stripe.step + byte;
                        assert!(span.range.contains(&from));
                        let to = usize::try_from(stripe.to + run * stripe.len + byte).unwrap();
                        assert_eq!(memory[to].replace(from), None, "each byte once");
                    }
                }
            }
        }
        memory
    }

    fn bytes_of(part: &Part) -> Vec<u64> {
        let runs = |stripe: Stripe| {
            (0..stripe.count).flat_map(move |run| {
                let start = stripe.from + run * stripe.step;
                start..start + stripe.len
            })
        };
        part.stripes().flat_map(runs).collect()
    }

    fn cut() -> impl Strategy<Value = Shaped> {
        let dimension = (1u64..40).prop_flat_map(|size| {
            (Just(size), 0..=size)
                .prop_flat_map(|(size, end)| (Just(size), (0..=end).prop_map(move |start| start..end)))
        });
        let cut = prop::collection::vec(dimension, 0..4).prop_map(|all| all.into_iter().unzip());
        let dtype = prop::sample::select(vec![Dtype::U8, Dtype::BF16, Dtype::F32, Dtype::F64]);
        (dtype, cut, any::<bool>()).prop_map(
            |(dtype, (shape, part), whole): (_, (Vec<u64>, Vec<Range<u64>>), _)| {
                (dtype, shape, (!whole).then_some(part))
            },
        )
    }

    proptest! {
        #[test]
        fn every_tensor_is_in_one_group_where_its_bytes_come(tensors in prop::collection::vec(cut(), 0..8), device: bool) {
            let wants = wants(&tensors);
            let placement = if device { Placement::Device } else { Placement::Host };
            let groups = groups(&wants, placement);
            let mut seen = 0;
            for group in &groups {
                let memory = filled(group, &wants);
                for member in &group.members {
                    prop_assert_eq!(member.want, seen, "in order");
                    seen += 1;
                    let want = &wants[member.want];
                    prop_assert_eq!(member.bytes, want.part.bytes);
                    let alignment = if device { DEVICE_ALIGNMENT } else { want.element };
                    prop_assert!(member.bytes == 0 || member.offset.is_multiple_of(alignment));
                    let start = usize::try_from(member.offset).unwrap();
                    let end = start + usize::try_from(member.bytes).unwrap();
                    let expected: Vec<_> = bytes_of(&want.part).into_iter().map(Some).collect();
                    prop_assert_eq!(&memory[start..end], &expected[..]);
                }
                let wanted: u64 = group.members.iter().map(|member| member.bytes).sum();
                prop_assert!(group.bytes <= wanted + 255 * group.members.len() as u64);
                prop_assert!(group.members.len() == 1 || group.bytes <= SHARED_BYTES);
            }
            prop_assert_eq!(seen, wants.len());
        }
    }

    fn whole(dtype: Dtype, shape: &[u64]) -> Shaped {
        (dtype, shape.to_vec(), None)
    }

    #[test]
    fn small_neighbours_share_memory_and_large_ones_have_their_own() {
        let small = whole(Dtype::BF16, &[100, 1000]);
        let large = whole(Dtype::BF16, &[1000, 1000]);
        let wants = wants(&[small.clone(), small.clone(), large.clone(), large, small.clone(), small]);
        for placement in [Placement::Host, Placement::Device] {
            let sizes: Vec<_> = groups(&wants, placement).iter().map(|group| group.members.len()).collect();
            assert_eq!(sizes, [2, 1, 1, 2], "{placement:?}");
        }
        let many = super::tests::wants(&vec![whole(Dtype::BF16, &[100, 1000]); 100]);
        let sizes: Vec<_> = groups(&many, Placement::Host).iter().map(|group| group.members.len()).collect();
        assert_eq!(sizes, [41, 41, 18]);
    }

    #[test]
    fn memory_that_is_shared_has_its_size_with_all_between_tensors() {
        let scalars = wants(&vec![whole(Dtype::F32, &[]); 40_000]);
        for placement in [Placement::Host, Placement::Device] {
            let groups = groups(&scalars, placement);
            assert!(groups.iter().all(|group| group.bytes <= SHARED_BYTES), "{placement:?}");
        }
    }

    #[test]
    fn a_large_tensor_stays_alone_behind_one_without_bytes() {
        let large = whole(Dtype::BF16, &[1000, 1000]);
        let wants =
            wants(&[whole(Dtype::F32, &[0]), large, whole(Dtype::F32, &[0]), whole(Dtype::F32, &[3])]);
        let sizes: Vec<_> = groups(&wants, Placement::Host).iter().map(|group| group.members.len()).collect();
        assert_eq!(sizes, [1, 2, 1]);
    }

    #[test]
    fn tensors_that_would_lie_askew_are_copied() {
        let wants = wants(&[
            whole(Dtype::U8, &[3]),
            whole(Dtype::F32, &[5]),
            whole(Dtype::F32, &[0, 4]),
            whole(Dtype::F32, &[5]),
        ]);
        let groups = groups(&wants, Placement::Host);
        let shown: Vec<_> = groups.iter().map(|group| (group.range.clone(), group.members.len())).collect();
        assert_eq!(shown, [(Some(960..1003), 1), (None, 3)]);
        assert_eq!(groups[1].members.iter().map(|member| member.offset).collect::<Vec<_>>(), [0, 20, 64]);
    }

    #[test]
    fn neighbours_that_keep_their_distance_on_a_device_are_one_copy() {
        let aligned = wants(&vec![whole(Dtype::BF16, &[128, 3]); 50]);
        let group = groups(&aligned, Placement::Device).remove(0);
        let spans: Vec<_> = group.spans(&aligned).collect();
        assert!(spans.len() == 1 && spans[0].is_one() && group.bytes == 50 * 768);
        let askew = wants(&vec![whole(Dtype::BF16, &[100]); 50]);
        let group = groups(&askew, Placement::Device).remove(0);
        let spans: Vec<_> = group.spans(&askew).collect();
        assert!(spans.len() == 1 && !spans[0].is_one());
        assert_eq!(spans[0].target(), 0..49 * 256 + 200);
    }

    #[test]
    fn gaps_are_read_along_where_they_are_little() {
        let reads = |shape: [u64; 2], part: [Range<u64>; 2]| -> Vec<Range<u64>> {
            let wants = wants(&[(Dtype::U8, shape.to_vec(), Some(part.to_vec()))]);
            let group = groups(&wants, Placement::Host).remove(0);
            let copied = group.range.is_none();
            group.spans(&wants).filter(|_| copied).map(|span| span.range).collect()
        };
        let little = reads([100, 20_000], [0..100, 0..10_000]);
        assert_eq!((little.len(), little[0].clone()), (1, 1000..1000 + 99 * 20_000 + 10_000));
        let large = reads([10, 200_000], [0..10, 0..1000]);
        assert_eq!(large.len(), 10);
        assert_eq!(large[1], 201_000..202_000);
        assert_eq!(reads([100, 100_000], [7..9, 0..100_000]), [], "rows lie in one piece: nothing is copied");
    }
}
