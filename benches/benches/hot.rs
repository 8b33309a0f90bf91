//! `FOREBAY_BENCH_SHARD=train-000000.tar cargo bench -p forebay-bench`: what each hot function takes. `make bench` cuts such a shard.

use std::path::PathBuf;

use forebay_bench::hot::{CASES, case};

fn main() {
    divan::main();
}

#[divan::bench(args = CASES.map(|(name, _)| name))]
fn hot(bencher: divan::Bencher<'_, '_>, name: &str) {
    let Some(shard) = std::env::var_os("FOREBAY_BENCH_SHARD").map(PathBuf::from) else {
        panic!("FOREBAY_BENCH_SHARD must name a tar shard of JPEGs; `make bench` cuts some");
    };
    let mut run = case(name, &shard).unwrap_or_else(|error| panic!("{name}: {error:#}"));
    bencher.bench_local(|| run().unwrap_or_else(|error| panic!("{name}: {error:#}")));
}
