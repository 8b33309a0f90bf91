//! Vectors that the reference implementation wrote (golden/order.py).

use forebay_loader::plan::{Order, OrderMode, OrderSpec, Perm, SampleRef};
use serde::Deserialize;

use crate::numbers;

#[derive(Deserialize)]
struct Golden {
    perms: Vec<PermCase>,
    orders: Vec<OrderCase>,
}

#[derive(Deserialize)]
struct PermCase {
    n: u64,
    key: u64,
    digest: String,
}

#[derive(Deserialize)]
struct OrderCase {
    runs: Vec<(u64, usize)>,
    seed: u64,
    epoch: u64,
    canonical_ranks: u32,
    shuffle_window: u64,
    mode: OrderMode,
    digest: Option<String>,
    probes: Vec<(u64, u64)>,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("../golden/order.json")).unwrap()
}

fn digest(numbers: impl IntoIterator<Item = u64>) -> String {
    let mut hasher = blake3::Hasher::new();
    for number in numbers {
        hasher.update(&number.to_le_bytes());
    }
    hasher.finalize().to_hex()[..32].to_owned()
}

#[test]
fn permutations_are_the_references() {
    for PermCase { n, key, digest: want } in golden().perms {
        let perm = Perm::new(n, key);
        assert_eq!(digest((0..n).map(|x| perm.at(x))), want, "n {n} key {key}");
    }
}

#[test]
fn orders_are_the_references() {
    for case in golden().orders {
        let counts: Vec<u64> =
            case.runs.iter().flat_map(|&(n, times)| std::iter::repeat_n(n, times)).collect();
        let spec = OrderSpec {
            counts: counts.into(),
            seed: case.seed,
            epoch: case.epoch,
            canonical_ranks: case.canonical_ranks,
            shuffle_window: case.shuffle_window,
            mode: case.mode,
        };
        let name = format!(
            "{:?} {:?} ranks {} window {}",
            spec.mode, case.runs, spec.canonical_ranks, spec.shuffle_window
        );
        let order = Order::new(&spec).unwrap();
        for (position, want) in case.probes {
            assert_eq!(order.sample_number(order.sample(position)), want, "{name} position {position}");
        }
        if let Some(want) = case.digest {
            let pure = (0..order.total()).map(|p| order.sample_number(order.sample(p)));
            assert_eq!(digest(pure), want, "{name}");
            assert_eq!(digest(numbers(&spec)), want, "{name}, walked");
        }
    }
}

/// The vector that the reference prints.
#[test]
fn the_printed_vector_holds() {
    let order = Order::new(&OrderSpec {
        counts: [5, 7, 0, 300].into(),
        seed: 1,
        epoch: 2,
        canonical_ranks: 2,
        shuffle_window: 64,
        mode: OrderMode::Shuffle,
    })
    .unwrap();
    let want = [(1, 0), (3, 150), (3, 71), (3, 227), (3, 32), (3, 188)];
    let got: Vec<_> = (0..6).map(|p| order.sample(p)).collect();
    assert_eq!(got, want.map(|(shard, index)| SampleRef { shard, index }));
}
