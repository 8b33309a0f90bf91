//! Compiles the C shim between the decoder and libjpeg-turbo's own interface, against the headers of the very library
//! that is linked: turbojpeg-sys builds it and says where its headers lie.

#[path = "build/headers.rs"]
mod headers;

fn main() {
    println!("cargo:rerun-if-changed=build");
    println!("cargo:rerun-if-changed=src/decode/jpeg/shim.c");
    println!("cargo:rerun-if-changed=src/decode/jpeg/shim.h");
    let folders = std::env::var("DEP_TURBOJPEG_INCLUDE").unwrap_or_default();
    let folders = headers::checked(&folders).unwrap_or_else(|what| {
        eprintln!("error: {what}");
        std::process::exit(1)
    });
    let mut shim = cc::Build::new();
    // The system's jpeglib.h must not win over the one above: include folders given here come before the system's.
    shim.includes(folders);
    shim.file("src/decode/jpeg/shim.c").opt_level(2).warnings(true).extra_warnings(true);
    shim.compile("forebay_jpeg");
}
