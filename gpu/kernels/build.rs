//! Compiles the kernels for the host, where the feature asks for it. PTX is checked in: `make kernels` writes it.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var_os("CARGO_FEATURE_HOST").is_none() {
        return;
    }
    let sources = std::fs::read_dir(".").into_iter().flatten().flatten().map(|entry| entry.path());
    for source in sources.filter(|path| path.extension().is_some_and(|kind| kind == "cu" || kind == "h")) {
        println!("cargo:rerun-if-changed={}", source.display());
    }
    println!("cargo:rerun-if-changed=host.cpp");
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .file("host.cpp")
        .opt_level(2)
        .warnings(true)
        .extra_warnings(true)
        // A product and a sum are rounded one by one, as on the device.
        .flag("-ffp-contract=off")
        .compile("forebay_kernels");
}
