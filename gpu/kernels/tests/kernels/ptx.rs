//! The checked-in PTX is what the sources give: compared by checksums, where no compiler for it is installed.

use std::collections::BTreeMap;
use std::path::Path;

use crc_fast::{CrcAlgorithm, checksum};
use forebay_kernels::{NAMES, PTX, host};

#[test]
fn the_ptx_was_built_from_these_sources() {
    let mut sources = BTreeMap::new();
    for entry in Path::new(env!("CARGO_MANIFEST_DIR")).read_dir().unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let kind = path.extension().unwrap_or_default();
        if (kind == "cu" || kind == "h") && name != "host.h" {
            let crc = checksum(CrcAlgorithm::Crc32IsoHdlc, &std::fs::read(path).unwrap());
            sources.insert(name, format!("{crc:08x}"));
        }
    }
    let stated = PTX.lines().skip(1).map_while(|line| line.strip_prefix("// ")?.split_once(' '));
    let stated: BTreeMap<_, _> = stated.map(|(crc, name)| (name.to_owned(), crc.to_owned())).collect();
    assert_eq!(stated, sources, "forebay.ptx is not built from the sources beside it: run `make kernels`");
}

#[test]
fn ptx_and_host_have_the_kernels_that_are_named() {
    let entries = PTX.lines().filter_map(|line| line.strip_prefix(".visible .entry ")?.strip_suffix('('));
    let mut entries: Vec<_> = entries.collect();
    let mut hosts: Vec<_> = host::all().iter().map(|kernel| kernel.name).collect();
    let mut names = NAMES.to_vec();
    entries.sort_unstable();
    hosts.sort_unstable();
    names.sort_unstable();
    assert_eq!((&entries, &hosts), (&names, &names));
}
