use proptest::prelude::*;

use super::*;

/// A header with its checksum right.
fn header(name: &[u8], size: &[u8], flag: u8) -> Vec<u8> {
    let mut block = vec![0u8; BLOCK];
    block[..name.len()].copy_from_slice(name);
    block[124..124 + size.len()].copy_from_slice(size);
    block[156] = flag;
    block[257..265].copy_from_slice(b"ustar\x0000");
    seal(&mut block);
    block
}

fn seal(block: &mut [u8]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

fn octal(size: usize) -> Vec<u8> {
    format!("{size:011o}\0").into_bytes()
}

fn entry(name: &[u8], flag: u8, data: &[u8]) -> Vec<u8> {
    let mut bytes = header(name, &octal(data.len()), flag);
    bytes.extend_from_slice(data);
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    bytes
}

fn file(name: &str, data: &[u8]) -> Vec<u8> {
    entry(name.as_bytes(), b'0', data)
}

fn pax(records: &[(&str, &[u8])]) -> Vec<u8> {
    let record = |(key, value): &(&str, &[u8])| {
        let body = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
        let length =
            (1..).map(|digits| body.len() + digits).find(|n| n.to_string().len() + body.len() == *n).unwrap();
        [length.to_string().into_bytes(), body].concat()
    };
    entry(b"PaxHeader", b'x', &records.iter().flat_map(record).collect::<Vec<u8>>())
}

fn end() -> Vec<u8> {
    vec![0; 2 * BLOCK]
}

/// All events; the bytes are cut every `step`, and data is left out where `skip` says so.
fn scan(bytes: &[u8], step: usize, skip: bool, length: Option<u64>) -> Result<Vec<Event>, Malformed> {
    let mut scanner = TarScanner::new(length);
    let mut events = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let mut input = &bytes[at..bytes.len().min(at.saturating_add(step))];
        while let Some(event) = scanner.scan(&mut input)? {
            events.push(event);
        }
        if skip {
            scanner.skip_to(bytes.len() as u64);
        }
        at = scanner.position() as usize;
    }
    events.extend(scanner.finish()?);
    assert!(matches!(events.last(), Some(Event::End { .. })));
    assert_eq!(scanner.finish(), Ok(None));
    Ok(events)
}

fn members(bytes: &[u8]) -> Result<Vec<Member>, Malformed> {
    let events = scan(bytes, bytes.len().max(1), false, None)?;
    let member = |event| match event {
        Event::Member(member) => Some(member),
        Event::End { .. } => None,
    };
    Ok(events.into_iter().filter_map(member).collect())
}

fn only(bytes: &[u8]) -> Member {
    let members = members(bytes).unwrap();
    assert_eq!(members.len(), 1, "{members:?}");
    members.into_iter().next().unwrap()
}

#[test]
fn a_plain_archive_gives_its_members() {
    let bytes = [file("a.jpg", &[1; 600]), file("a.cls", b"7"), end()].concat();
    let got = scan(&bytes, 100, false, Some(bytes.len() as u64)).unwrap();
    let member = |path: &str, header_offset, size| {
        Event::Member(Member {
            header_offset,
            data_offset: header_offset + 512,
            size,
            path: path.into(),
            kind: Kind::File,
        })
    };
    assert_eq!(got, [member("a.jpg", 0, 600), member("a.cls", 1536, 1), Event::End { offset: 2560 }]);
}

#[test]
fn long_and_odd_names_come_as_they_are_stored() {
    let long = "n".repeat(10_000);
    let cases: [&[u8]; 6] = [
        long.as_bytes(),
        b"../../etc/passwd",
        b"/abs/a.txt",
        b"a\0b.txt",
        b"\xff\xfe.txt",
        "é/ü.txt".as_bytes(),
    ];
    for name in cases {
        let bytes = [pax(&[("path", name), ("mtime", b"1.5")]), file("short", b"x"), end()].concat();
        let member = only(&bytes);
        assert_eq!((member.path.as_slice(), member.size, member.header_offset), (name, 1, 0));
        assert_eq!(bytes[member.data_offset as usize], b'x');
    }
    let gnu = [entry(b"././@LongLink", b'L', b"gnu/name.txt\0"), file("short", b"x"), end()].concat();
    assert_eq!(only(&gnu).path, b"gnu/name.txt");
}

#[test]
fn a_name_too_long_to_keep_is_refused_before_it_is_read() {
    let mut bytes = file("before", b"x");
    bytes.extend(header(b"././@LongLink", b"77777777777\0", b'L'));
    let error = members(&bytes).unwrap_err();
    assert_eq!(error.offset, 1024);
    assert!(error.what.contains("8589934591"), "{error}");
}

#[test]
fn sizes_no_shard_has_are_refused() {
    let two_to_63 = [0x80, 0, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0];
    for (size, wanted) in
        [(&two_to_63[..], "9223372036854775808"), (&[0xff; 12], "-1"), (b"99999999999", "octal")]
    {
        let bytes = [file("a", b"x"), header(b"b", size, b'0'), end()].concat();
        let error = members(&bytes).unwrap_err();
        assert_eq!(error.offset, 1024);
        assert!(error.what.contains(wanted), "{error}");
    }
    let nearly = [0x80, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
    let bytes = [file("a", b"x"), header(b"b.jpg", &nearly, b'0'), end()].concat();
    let early = scan(&bytes, 64, false, Some(bytes.len() as u64)).unwrap_err();
    assert!(early.offset == 1024 && early.what.contains("\"b.jpg\" claims"), "{early}");
    let late = members(&bytes).unwrap_err();
    assert!(late.offset == bytes.len() as u64 && late.what.contains("\"b.jpg\""), "{late}");
    let bad = [pax(&[("size", b"-5")]), file("a", b"x"), end()].concat();
    assert!(members(&bad).is_err());
}

#[test]
fn every_cut_is_an_error_but_one_at_a_members_boundary() {
    let whole = [file("a.jpg", &[1; 600]), pax(&[("path", b"long")]), file("b", &[2; 512]), end()].concat();
    let boundaries = [1536, 3584];
    for cut in 0..whole.len() {
        let zeros_only = cut > 3584;
        let ok = boundaries.contains(&cut) || zeros_only;
        for length in [None, Some(cut as u64)] {
            let got = scan(&whole[..cut], 4096, false, length);
            assert_eq!(got.is_ok(), ok, "{cut}: {got:?}");
            assert!(got.err().is_none_or(|error| error.offset <= cut as u64));
        }
    }
}

#[test]
fn what_follows_the_end_is_ignored() {
    let bytes = [file("a", b"x"), end(), file("b", b"y"), vec![9; 1000]].concat();
    assert_eq!(only(&bytes).path, b"a");
}

#[test]
fn garbage_in_the_place_of_a_header_is_an_error() {
    let bytes = [file("a", b"x"), vec![9; 512], file("b", b"y"), end()].concat();
    let error = members(&bytes).unwrap_err();
    assert!(error.offset == 1024 && error.what.contains("checksum"), "{error}");
    let error = members(&[]).unwrap_err();
    assert!(error.what.contains("no bytes"), "{error}");
}

#[test]
fn sparse_members_are_known_in_every_format() {
    let mut old = header(b"s", &octal(512), b'S');
    old[482] = 1;
    seal(&mut old);
    let mut more = vec![0u8; BLOCK];
    more[504] = 1;
    let old = [old, more, vec![0; BLOCK], vec![1; BLOCK], end()].concat();
    let member = only(&old);
    assert_eq!((member.kind, member.data_offset, member.size), (Kind::Sparse, 3 * 512, 512));
    let pax_formats: [&[(&str, &[u8])]; 3] = [
        &[("GNU.sparse.size", b"9"), ("GNU.sparse.offset", b"0"), ("GNU.sparse.name", b"real.jpg")],
        &[("GNU.sparse.map", b"0,1"), ("GNU.sparse.name", b"real.jpg"), ("path", b"x")],
        &[("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0"), ("GNU.sparse.name", b"real.jpg")],
    ];
    for records in pax_formats {
        let member = only(&[pax(records), file("GNUSparseFile.0/x", &[0; 700]), end()].concat());
        assert_eq!((member.kind, member.path.as_slice(), member.size), (Kind::Sparse, &b"real.jpg"[..], 700));
    }
}

#[test]
fn entries_that_are_no_files_are_passed_over() {
    let bytes = [
        entry(b"dir/", 0, b""),
        // Links give the size of their target, and have no data.
        header(b"link", &octal(999), b'1'),
        header(b"pipe", &octal(0), b'6'),
        entry(b"volume", b'V', b"some data"),
        entry(b"a", b'7', b"x"),
        end(),
    ]
    .concat();
    let kinds: Vec<_> = members(&bytes).unwrap().iter().map(|member| member.kind).collect();
    assert_eq!(kinds, [Kind::Directory, Kind::Link, Kind::Special, Kind::Other(b'V'), Kind::File]);
}

#[test]
fn a_long_name_cut_behind_a_slash_is_no_directory() {
    let bytes =
        [entry(b"././@LongLink", b'L', b"folder/a.txt\0"), entry(b"folder/", 0, b"x"), end()].concat();
    let member = only(&bytes);
    assert_eq!((member.kind, member.size), (Kind::File, 1));
}

#[test]
fn global_headers_hold_until_they_are_overridden() {
    let mut global = pax(&[("path", b"global")]);
    global[156] = b'g';
    seal(&mut global[..512]);
    let bytes = [global, file("a", b"x"), pax(&[("path", b"own")]), file("b", b"y"), end()].concat();
    let paths: Vec<_> = members(&bytes).unwrap().into_iter().map(|member| member.path).collect();
    assert_eq!(paths, [b"global".to_vec(), b"own".to_vec()]);
}

#[test]
fn a_checksum_of_signed_bytes_is_right_too() {
    let mut bytes = file("a", b"x");
    bytes[0] = 0xe9;
    let sum: i32 = bytes[..512]
        .iter()
        .enumerate()
        .map(|(n, &b)| if (148..156).contains(&n) { 32 } else { i32::from(b as i8) })
        .sum();
    bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    assert_eq!(only(&[bytes, end()].concat()).path, b"\xe9");
}

#[test]
fn a_stale_index_is_found_by_the_members_header() {
    let block: [u8; BLOCK] = file("a.jpg", &[1; 5])[..BLOCK].try_into().unwrap();
    assert_eq!(check_member(&block, b"a.jpg", 5), Ok(()));
    assert!(check_member(&block, b"a.jpg", 6).unwrap_err().contains("5 bytes"));
    assert!(check_member(&block, b"b.jpg", 5).unwrap_err().contains("a.jpg"));
    assert!(check_member(&[1; BLOCK], b"a.jpg", 5).is_err());
    assert!(check_member(&[0; BLOCK], b"a.jpg", 5).is_err());
}

/// Any archive of a few members, with extended headers of several kinds.
fn archives() -> impl Strategy<Value = Vec<u8>> {
    let name = proptest::collection::vec(1..=255u8, 1..60);
    let data = proptest::collection::vec(any::<u8>(), 0..2000);
    let member = (name, data, 0..5u8).prop_map(|(name, data, shape)| match shape {
        0 => {
            [pax(&[("path", &name), ("size", data.len().to_string().as_bytes())]), file("p", &data)].concat()
        }
        1 => [entry(b"././@LongLink", b'L', &name), file("l", &data)].concat(),
        2 => entry(&name, b'5', b""),
        3 => entry(&name, b'?', &data),
        _ => entry(&name, b'0', &data),
    });
    (proptest::collection::vec(member, 0..6), any::<bool>())
        .prop_map(|(members, ends)| [members.concat(), if ends { end() } else { vec![0; 512] }].concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_chunking_gives_the_same_events(bytes in archives(), step in 1..3000usize) {
        let whole = scan(&bytes, bytes.len(), false, None).unwrap();
        prop_assert_eq!(&scan(&bytes, step, false, None).unwrap(), &whole);
        prop_assert_eq!(&scan(&bytes, step, true, None).unwrap(), &whole);
        prop_assert_eq!(&scan(&bytes, step, true, Some(bytes.len() as u64)).unwrap(), &whole);
    }

    #[test]
    fn changed_bytes_end_in_events_or_one_error(
        bytes in archives(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        seals in any::<bool>(),
        step in 1..3000usize,
    ) {
        let mut bytes = bytes;
        for (at, value) in &changes {
            let at = at.index(bytes.len());
            bytes[at] = *value;
            if seals {
                // So that what is behind the checksum meets the change too.
                seal(&mut bytes[at / BLOCK * BLOCK..][..BLOCK]);
            }
        }
        let whole = scan(&bytes, bytes.len(), false, None);
        prop_assert_eq!(&scan(&bytes, step, false, None), &whole);
        prop_assert!(scan(&bytes, step, true, Some(bytes.len() as u64)).is_ok() == whole.is_ok());
    }
}
