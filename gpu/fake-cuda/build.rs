//! Names the shared library as the driver names itself, so that a program that asks for `libcuda.so.1` takes the one that is loaded.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|system| system == "linux") {
        println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libcuda.so.1");
        // The library's own functions are its own, also where another driver was loaded before it, or where a copy of it lacks some.
        println!("cargo:rustc-cdylib-link-arg=-Wl,-Bsymbolic");
    }
}
