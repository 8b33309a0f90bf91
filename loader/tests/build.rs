//! What the build script says of the libjpeg-turbo that it finds.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

#[path = "../build/headers.rs"]
mod headers;

fn include(config: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("jpeglib.h"), "").unwrap();
    std::fs::write(dir.path().join("jconfig.h"), config).unwrap();
    dir
}

#[test]
fn a_library_without_simd_fails_the_build_with_one_line_that_says_what_to_do() {
    for config in ["/* #undef WITH_SIMD */\n", "#define WITH_SIMD 0\n", ""] {
        let dir = include(config);
        let what = headers::checked(dir.path().to_str().unwrap()).unwrap_err();
        assert!(what.contains("without SIMD") && what.contains("nasm") && !what.contains('\n'), "{what}");
    }
    let what = headers::checked("").unwrap_err();
    assert!(what.contains("jpeglib.h") && what.contains("cmake"), "{what}");
}

#[test]
fn any_of_several_folders_may_hold_the_headers() {
    let (dir, empty) = (include("#define WITH_SIMD 1\n"), tempfile::tempdir().unwrap());
    let folders = format!("{},{}", empty.path().display(), dir.path().display());
    assert_eq!(headers::checked(&folders).unwrap(), [empty.path(), dir.path()]);
}
