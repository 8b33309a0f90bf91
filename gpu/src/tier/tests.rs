use std::collections::{BTreeMap, BTreeSet, HashMap};

use proptest::prelude::*;

use super::*;

const GRANULE: u64 = 8;

/// When `sample` is used next from step `from` on.
fn next(uses: &[u64], from: usize, sample: u64) -> Need {
    uses[from..].iter().position(|&used| used == sample).map_or(NEVER, |ahead| (from + ahead) as Need)
}

/// Runs a tier over a known future: which uses hit. What it holds is the sample's own number.
fn run(tier: &mut Tier<u64>, uses: &[u64], bytes: impl Fn(u64) -> u64) -> Vec<bool> {
    let step = |(at, &sample): (usize, &u64)| {
        let need = |sample| next(uses, at + 1, sample);
        let hit = tier.pin(sample, need).map(|held| assert_eq!(*held, sample)).is_some();
        if hit {
            tier.unpin(sample);
        } else if tier.reserve(sample, bytes(sample), need).is_some() {
            tier.fill(sample, sample);
        }
        check(tier);
        hit
    };
    uses.iter().enumerate().map(step).collect()
}

/// Extents tile the memory, and the books agree with them.
fn check<T>(tier: &Tier<T>) {
    let all = tier.space.all();
    for pair in all.windows(2) {
        assert!(pair[0].end() <= pair[1].offset, "extents overlap: {pair:?}");
        assert!(
            pair[0].end() < pair[1].offset || pair.iter().any(|extent| extent.holder.is_some()),
            "{pair:?}"
        );
    }
    assert_eq!(all.iter().map(|extent| extent.len).sum::<u64>(), tier.capacity_bytes());
    let held: BTreeMap<u64, Extent> =
        all.iter().filter_map(|extent| extent.holder.map(|holder| (holder, *extent))).collect();
    assert_eq!(held.len(), tier.len());
    assert_eq!(held.values().map(|extent| extent.len).sum::<u64>(), tier.used_bytes());
    assert!(tier.used_bytes() <= tier.capacity_bytes());
    for (sample, entry) in &tier.entries {
        assert_eq!(held[sample], entry.extent);
    }
    if let Some(ranking) = &tier.ranking {
        let free = tier.entries.iter().filter(|(_, entry)| entry.pins == 0);
        let expected: BTreeSet<(Need, u64)> = free.map(|(sample, entry)| (entry.need, *sample)).collect();
        assert_eq!(*ranking, expected);
    }
}

/// The most hits that any rule can have with `slots` places, which may keep a used sample or not.
fn most_hits(uses: &[u64], slots: usize) -> usize {
    fn from(
        uses: &[u64],
        at: usize,
        kept: &BTreeSet<u64>,
        slots: usize,
        known: &mut HashMap<(usize, BTreeSet<u64>), usize>,
    ) -> usize {
        let Some(&sample) = uses.get(at) else { return 0 };
        if let Some(&hits) = known.get(&(at, kept.clone())) {
            return hits;
        }
        let hits = if kept.contains(&sample) {
            1 + from(uses, at + 1, kept, slots, known)
        } else {
            let mut best = from(uses, at + 1, kept, slots, known);
            let mut choices = vec![kept.clone()];
            if kept.len() == slots {
                choices =
                    kept.iter().map(|out| kept.iter().copied().filter(|one| one != out).collect()).collect();
            }
            for mut choice in choices {
                choice.insert(sample);
                best = best.max(from(uses, at + 1, &choice, slots, known));
            }
            best
        };
        known.insert((at, kept.clone()), hits);
        hits
    }
    from(uses, 0, &BTreeSet::new(), slots, &mut HashMap::new())
}

/// Epochs of all samples, each in an order of its own.
fn epochs(samples: u64, orders: &[u64]) -> Vec<u64> {
    let mixed = |x: u64| {
        let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB)
    };
    let shuffled = |seed: &u64| {
        let mut order: Vec<u64> = (0..samples).collect();
        order.sort_by_key(|sample| mixed(sample + 1 + (seed << 32)));
        order
    };
    orders.iter().flat_map(shuffled).collect()
}

proptest! {
    #[test]
    fn with_one_size_no_rule_hits_more_often(uses in prop::collection::vec(0u64..6, 0..14), slots in 1u64..4) {
        let mut tier = Tier::new([(0, slots * GRANULE)], GRANULE);
        let hits = run(&mut tier, &uses, |_| 5).into_iter().filter(|hit| *hit).count();
        prop_assert_eq!(hits, most_hits(&uses, slots as usize));
    }

    #[test]
    fn any_sizes_in_any_parts_stay_apart_and_within_the_budget(
        uses in prop::collection::vec(0u64..40, 0..300),
        sizes in prop::collection::vec(0u64..100, 40),
        parts in prop::collection::vec(0u64..200, 1..4),
    ) {
        let starts = parts.iter().scan(3, |at, &len| { let start = *at; *at += len + 1; Some((start, len)) });
        let mut tier = Tier::new(starts, GRANULE);
        prop_assert!(tier.capacity_bytes() <= parts.iter().sum());
        run(&mut tier, &uses, |sample| sizes[sample as usize]);
    }

    #[test]
    fn what_is_pinned_or_written_or_needed_sooner_stays(
        steps in prop::collection::vec((0u64..30, 0u8..6, 1u64..60), 1..200),
    ) {
        let mut tier: Tier<u64> = Tier::new([(0, 240)], GRANULE);
        let mut pinned: Vec<u64> = Vec::new();
        let mut writing: Vec<u64> = Vec::new();
        // Needs that are a function of the sample alone: whoever leaves must have the later one.
        let need = |sample: u64| (sample * 7) % 31;
        for (sample, what, bytes) in steps {
            let before: Vec<u64> = tier.entries.keys().copied().collect();
            match what {
                0 => {
                    if tier.pin(sample, need).is_some() {
                        pinned.push(sample);
                    }
                }
                1 => {
                    if let Some(at) = pinned.iter().position(|one| *one == sample) {
                        pinned.swap_remove(at);
                        tier.unpin(sample);
                    }
                }
                2 => tier.begin(),
                3 => {
                    if let Some(sample) = writing.pop() {
                        tier.abandon(sample);
                        prop_assert!(!tier.entries.contains_key(&sample));
                    }
                }
                _ => {
                    if tier.reserve(sample, bytes, need).is_some() {
                        prop_assert!(!tier.holds(sample));
                        for gone in before.iter().filter(|one| !tier.entries.contains_key(one)) {
                            prop_assert!(need(*gone) > need(sample), "{gone} left for {sample}");
                        }
                        if what == 4 { tier.fill(sample, sample) } else { writing.push(sample) }
                    } else {
                        prop_assert!(before.iter().all(|one| tier.entries.contains_key(one)));
                    }
                }
            }
            prop_assert!(pinned.iter().all(|one| tier.holds(*one)));
            prop_assert!(writing.iter().all(|one| tier.entries.contains_key(one) && !tier.holds(*one)));
            check(&tier);
        }
    }
}

#[test]
fn a_cyclic_scan_keeps_a_part_and_hits_it_every_time() {
    let uses = epochs(100, &[1; 5]);
    let mut tier = Tier::new([(0, 30 * GRANULE)], GRANULE);
    let hits = run(&mut tier, &uses, |_| GRANULE);
    for epoch in hits[100..400].chunks(100) {
        assert_eq!(epoch.iter().filter(|hit| **hit).count(), 30);
    }
}

/// Between two epochs lies the end of one, and what is used in both is kept over it: no rule hits more.
#[test]
fn shuffled_epochs_hit_the_budgets_share() {
    let uses = epochs(400, &[3, 5, 7, 11, 13]);
    let mut tier = Tier::new([(0, 100 * GRANULE)], GRANULE);
    let hits = run(&mut tier, &uses, |_| 1);
    for epoch in hits[400..1600].chunks(400) {
        assert_eq!(epoch.iter().filter(|hit| **hit).count(), 100);
    }
}

#[test]
fn sizes_that_differ_by_four_fill_most_of_the_memory_and_keep_hitting() {
    let uses = epochs(600, &[3, 5, 7, 11, 13, 17]);
    let bytes = |sample: u64| 64 + sample.wrapping_mul(2654435761) % 192;
    let mut tier = Tier::new([(0, 150 * 160)], GRANULE);
    let hits = run(&mut tier, &uses[..3000], bytes);
    assert!(
        tier.used_bytes() * 10 > tier.capacity_bytes() * 8,
        "{} of {}",
        tier.used_bytes(),
        tier.capacity_bytes()
    );
    let hit_bytes: u64 = uses[1200..3000]
        .iter()
        .zip(&hits[1200..3000])
        .filter(|(_, hit)| **hit)
        .map(|(sample, _)| bytes(*sample))
        .sum();
    let all: u64 = uses[1200..3000].iter().map(|sample| bytes(*sample)).sum();
    assert!(hit_bytes * 100 > all * 21, "{hit_bytes} of {all} bytes");
}

#[test]
fn a_tier_that_holds_everything_asks_for_no_needs_of_what_is_here() {
    let mut tier = Tier::new([(0, 100 * GRANULE)], GRANULE);
    for sample in 0..100 {
        let need = |asked| if asked == sample { 0 } else { panic!("asked for {asked}") };
        assert!(tier.reserve(sample, 1, need).is_some());
        tier.fill(sample, ());
    }
    tier.begin();
    assert!((0..100).all(|sample| tier.pin(sample, |_| panic!("asked")).is_some()));
}

#[test]
fn what_is_larger_than_the_memory_or_empty_is_no_danger() {
    let mut tier: Tier<()> = Tier::new([(0, 4 * GRANULE)], GRANULE);
    assert_eq!(tier.reserve(1, 4 * GRANULE + 1, |_| 0), None);
    assert_eq!(tier.reserve(1, u64::MAX, |_| 0), None);
    assert_eq!(tier.reserve(1, 0, |_| 0), Some(Place { offset: 0, len: GRANULE }));
    assert_eq!(tier.reserve(1, 1, |_| 0), None, "it is being written");
    assert!(tier.pin(1, |_| 0).is_none());
    tier.clear();
    tier.fill(1, ());
    assert!(tier.is_empty() && !tier.holds(1));
    assert_eq!(Tier::<()>::new([], GRANULE).reserve(1, 1, |_| 0), None);
    assert_eq!(Tier::<()>::new([(3, 4)], GRANULE).capacity_bytes(), 0);
}
