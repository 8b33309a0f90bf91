//! Compiles the C shim between the decoder and libjpeg-turbo's own interface, against the headers of the very library
//! that is linked: turbojpeg-sys builds it and says where its headers lie.

use std::path::Path;

fn main() {
    println!("cargo:rerun-if-changed=src/decode/jpeg/shim.c");
    println!("cargo:rerun-if-changed=src/decode/jpeg/shim.h");
    let folders = std::env::var("DEP_TURBOJPEG_INCLUDE").unwrap_or_default();
    let mut shim = cc::Build::new();
    let (mut found, mut simd) = (false, false);
    // Several folders come separated by commas, as the build script of turbojpeg-sys prints them.
    for folder in folders.split(',').filter(|folder| !folder.is_empty()) {
        found |= Path::new(folder).join("jpeglib.h").is_file();
        simd |= has_simd(&Path::new(folder).join("jconfig.h"));
        shim.include(folder);
    }
    if !found {
        eprintln!(
            "error: jpeglib.h of libjpeg-turbo was not found (turbojpeg-sys gave DEP_TURBOJPEG_INCLUDE={folders:?}). \
             Build it from source, which needs cmake and nasm (unset TURBOJPEG_SOURCE), or let TURBOJPEG_INCLUDE_DIR \
             name a folder that holds jpeglib.h beside turbojpeg.h"
        );
        std::process::exit(1);
    }
    // What `forebay doctor` says of the library that was linked.
    println!("cargo:rustc-env=FOREBAY_JPEG_SIMD={simd}");
    // The system's jpeglib.h must not win over the one above: include folders given here come before the system's.
    shim.file("src/decode/jpeg/shim.c").opt_level(2).warnings(true).extra_warnings(true);
    shim.compile("forebay_jpeg");
}

/// libjpeg-turbo writes into its own configuration whether it was built with SIMD.
fn has_simd(config: &Path) -> bool {
    let text = std::fs::read_to_string(config).unwrap_or_default();
    text.lines().any(|line| line.split_whitespace().take(3).eq(["#define", "WITH_SIMD", "1"]))
}
