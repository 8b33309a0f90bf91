//! The cache against a reference model: whatever happened before, a read gives the bytes of the version that was asked for.

use std::sync::Arc;

use forebay_cache::disk::{Advice, Evict};
use forebay_cache::tiered::Cache;
use forebay_cache::{ByteRange, Hold, ObjectMeta};
use proptest::prelude::*;

use super::world::{MIB, World, expect, whole};

#[derive(Clone, Debug)]
enum Step {
    Read {
        object: usize,
        start: u64,
        len: u64,
    },
    Prefetch {
        object: usize,
    },
    /// A plan holds an object in host memory; what was held before is let go.
    Hold {
        object: usize,
    },
    LetGo,
    Advise {
        object: usize,
        advice: u8,
    },
    Replace {
        object: usize,
    },
    EvictObject {
        object: usize,
    },
    EvictDownTo {
        mib: u64,
    },
    EvictAll,
    Restart,
    /// The process dies: no close, and the folder as it is at that moment goes on elsewhere.
    Crash,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let object = 0usize..4;
    let step = prop_oneof![
        8 => (object.clone(), 0u64..1000, prop_oneof![1u64..5000, 100_000u64..6_000_000])
            .prop_map(|(object, start, len)| Step::Read { object, start, len }),
        3 => object.clone().prop_map(|object| Step::Prefetch { object }),
        2 => object.clone().prop_map(|object| Step::Hold { object }),
        1 => Just(Step::LetGo),
        2 => (object.clone(), 0u8..3).prop_map(|(object, advice)| Step::Advise { object, advice }),
        2 => object.clone().prop_map(|object| Step::Replace { object }),
        1 => object.prop_map(|object| Step::EvictObject { object }),
        1 => (4u64..24).prop_map(|mib| Step::EvictDownTo { mib }),
        1 => Just(Step::EvictAll),
        1 => Just(Step::Restart),
        1 => Just(Step::Crash),
    ];
    prop::collection::vec(step, 1..25)
}

/// Sizes around the edges of granules and blocks.
const SIZES: [u64; 4] = [10_000, 4 << 20, (4 << 20) + 1, (9 << 20) + 4095];

struct Model {
    world: World,
    cache: Cache,
    objects: Vec<(Arc<ObjectMeta>, Vec<u8>)>,
    versions: u64,
    held: Option<Hold>,
}

impl Model {
    fn new() -> Self {
        let mut world = World::new(24 * MIB);
        world.slabs = 4;
        let put = |(at, size): (usize, &u64)| world.put(&format!("{at}"), *size, at as u64);
        let objects = SIZES.iter().enumerate().map(put).collect();
        let cache = world.open();
        Self { world, cache, objects, versions: 100, held: None }
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Read { object, start, len } => {
                let (meta, all) = &self.objects[object];
                let start = meta.size_bytes * start / 1000;
                let range = ByteRange::new(start, (start + len).min(meta.size_bytes));
                expect(&self.cache, &self.world, meta, range, all).await;
            }
            Step::Prefetch { object } => {
                let meta = &self.objects[object].0;
                self.cache.prefetch(meta, whole(meta)).await.unwrap();
            }
            Step::Hold { object } => {
                let meta = &self.objects[object].0;
                self.held = Some(self.cache.hold(meta, whole(meta)).await.unwrap());
            }
            Step::LetGo => self.held = None,
            Step::Advise { object, advice } => {
                let meta = &self.objects[object].0;
                let advice = [Advice::None, Advice::Done, Advice::WillNeed][usize::from(advice)];
                self.cache.advise(&meta.id, whole(meta), advice);
            }
            Step::Replace { object } => {
                self.versions += 1;
                self.objects[object] = self.world.put(&format!("{object}"), SIZES[object], self.versions);
            }
            Step::EvictObject { object } => {
                self.cache.evict(Evict::Object(self.objects[object].0.id)).await.unwrap();
            }
            Step::EvictDownTo { mib } => {
                self.cache.evict(Evict::DownTo { bytes: mib * MIB }).await.unwrap();
            }
            Step::EvictAll => {
                self.cache.evict(Evict::All).await.unwrap();
            }
            Step::Restart => {
                self.cache.close().await.unwrap();
                self.cache = self.world.open();
            }
            Step::Crash => {
                let copy = tempfile::tempdir().unwrap();
                let from = format!("{}/.", self.world.dir.path().display());
                let copied = std::process::Command::new("cp")
                    .args(["-a", "--sparse=always", &from])
                    .arg(copy.path())
                    .status();
                assert!(copied.unwrap().success() || copy.path().join("LOCK").exists());
                let old = std::mem::replace(&mut self.world.dir, copy);
                self.cache.close().await.unwrap();
                self.cache = self.world.open();
                drop(old);
            }
        }
        let (used, limit) = (self.world.allocated(), self.world.limit_bytes);
        assert!(used <= limit, "{used} bytes under a limit of {limit}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, max_shrink_iters: 100, ..ProptestConfig::default() })]
    #[test]
    fn a_read_gives_the_bytes_of_the_version_asked_for(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut model = Model::new();
            for step in steps {
                model.step(step).await;
            }
        });
    }
}
