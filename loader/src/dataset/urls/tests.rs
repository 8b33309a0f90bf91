use super::*;

fn around() -> Surroundings<'static> {
    Surroundings {
        working_dir: "/srv/data".into(),
        variable: &|name| (name == "WDS_ROOT").then(|| "s3://bucket".to_owned()),
        is_dir: &|path| path == Path::new("/srv/data/folder.d"),
    }
}

fn resolved(source: &str) -> Vec<Pattern> {
    resolve(&[source], &around()).unwrap_or_else(|error| panic!("{source}: {error}"))
}

fn exact(url: &str) -> Pattern {
    Pattern::Exact(Location::new(url))
}

fn folder(url: &str) -> Pattern {
    Pattern::Folder(Location::new(url))
}

fn glob(folder: &str, pattern: &str) -> Pattern {
    Pattern::Glob { folder: Location::new(folder), pattern: pattern.to_owned() }
}

#[test]
fn sources_are_objects_globs_or_folders() {
    let cases = [
        ("s3://b/train.tar", exact("s3://b/train.tar")),
        ("gs://b/a b%20#.tar", exact("gs://b/a%20b%2520%23.tar")),
        ("az://c/d/*.tar", glob("az://c/d/", "*.tar")),
        ("s3://b/*/x/a-?.tar", glob("s3://b/", "*/x/a-?.tar")),
        ("s3://b", folder("s3://b/")),
        ("s3://b/", folder("s3://b/")),
        ("s3://b/train", folder("s3://b/train/")),
        ("s3://b/train.v1/", folder("s3://b/train.v1/")),
        ("https://h/a.tar?sig=a*b", exact("https://h/a.tar?sig=a*b")),
        ("http://[::1]:8000/a b.tar", exact("http://[::1]:8000/a%20b.tar")),
        ("file:///d/a%20b.tar", exact("file:///d/a%20b.tar")),
        ("file://localhost/d/a.tar", exact("file:///d/a.tar")),
        ("file:a.tar", exact("file:///srv/data/a.tar")),
        ("a.tar", exact("file:///srv/data/a.tar")),
        ("../a%20é:1.tar", exact("file:///srv/a%2520%C3%A9:1.tar")),
        ("folder.d", folder("file:///srv/data/folder.d/")),
        ("folder", exact("file:///srv/data/folder")),
        ("folder/", folder("file:///srv/data/folder/")),
        ("/d/[ab]*.tar", glob("file:///d/", "[ab]*.tar")),
        ("/", folder("file:///")),
        ("/d/*/", glob("file:///d/", "*/*.tar")),
    ];
    for (source, wanted) in cases {
        assert_eq!(resolved(source), [wanted], "{source}");
    }
}

#[test]
fn lists_keep_their_order_and_their_repetitions() {
    let got = resolve(&["s3://b/{2..1}.tar::s3://b/2.tar", "${ROOT}/3.tar"], &around()).unwrap();
    let wanted = ["s3://b/2.tar", "s3://b/1.tar", "s3://b/2.tar", "s3://bucket/3.tar"];
    assert_eq!(got, wanted.map(exact));
    let two = resolved("http://[::1]/a.tar::http://[::2]/b.tar");
    assert_eq!(two, ["http://[::1]/a.tar", "http://[::2]/b.tar"].map(exact));
}

#[test]
fn what_a_listing_gives_is_sorted_by_name() {
    let keys = || {
        ["b.tar", "10.tar", "9.tar", "9.idx", "d/a b.TGZ", ".x.tar", ".d/a.tar", "c.tar.gz"].map(String::from)
    };
    let names = |pattern: &Pattern| -> Vec<String> {
        pattern.select(keys()).iter().map(|location| location.as_str().to_owned()).collect()
    };
    let all = names(&folder("s3://b/t/"));
    assert_eq!(
        all,
        ["10.tar", "9.tar", "b.tar", "c.tar.gz", "d/a%20b.TGZ"].map(|key| format!("s3://b/t/{key}"))
    );
    assert_eq!(
        names(&glob("s3://b/t/", "[0-9]*")),
        ["10.tar", "9.idx", "9.tar"].map(|key| format!("s3://b/t/{key}"))
    );
}

#[test]
fn what_can_not_be_read_says_what_can() {
    let cases = [
        ("pipe:curl http://h/a.tar", "scheme \"pipe\""),
        ("hf://d/a.tar", "scheme \"hf\""),
        ("s3:///a.tar", "no bucket"),
        ("s3://b*/a.tar", "bucket's name"),
        ("https://h/*.tar", "over HTTP"),
        ("https://h/d/", "over HTTP"),
        ("https://h", "over HTTP"),
        ("file://host/a.tar", "three slashes"),
        ("a.tar::", "empty shard"),
        ("", "empty shard"),
        ("{1..2", "balanced"),
        ("${NONE}/a.tar", "WDS_NONE"),
        ("{0..99999999999}.tar", "10000000 shards"),
    ];
    for (source, wanted) in cases {
        let error = resolve(&[source], &around()).unwrap_err().to_string();
        assert!(error.contains(wanted), "{source}: {error}");
    }
    assert!(resolve::<&str>(&[], &around()).is_err());
}

#[test]
fn credentials_are_refused_and_not_shown() {
    for source in [
        "https://me:secret@h/a.tar",
        "s3://me:secret@b/a.tar",
        "ftp://me:secret@h/a.tar",
        "https://@h/x?secret",
    ] {
        let error = resolve(&[source], &around()).unwrap_err().to_string();
        assert!(!error.contains("secret"), "{error}");
    }
}
