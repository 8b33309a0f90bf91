//! Where the headers of the linked libjpeg-turbo lie, and whether it can do what Forebay needs. Part of the build script, and tested on
//! its own.

use std::path::{Path, PathBuf};

/// The include folders that turbojpeg-sys gave, separated by commas; or one line that says what is missing and what to do.
pub(crate) fn checked(folders: &str) -> Result<Vec<PathBuf>, String> {
    let folders: Vec<PathBuf> =
        folders.split(',').filter(|folder| !folder.is_empty()).map(PathBuf::from).collect();
    if !folders.iter().any(|folder| folder.join("jpeglib.h").is_file()) {
        return Err(format!(
            "jpeglib.h of libjpeg-turbo was not found (turbojpeg-sys gave DEP_TURBOJPEG_INCLUDE={folders:?}). Build it from source, which \
             needs cmake and nasm (unset TURBOJPEG_SOURCE), or let TURBOJPEG_INCLUDE_DIR name a folder that holds jpeglib.h beside \
             turbojpeg.h"
        ));
    }
    if !folders.iter().any(|folder| has_simd(&folder.join("jconfig.h"))) {
        return Err(
            "libjpeg-turbo was built without SIMD, which decodes several times slower: install nasm, run `cargo clean -p turbojpeg-sys`, \
             and build again; or link a library that has it (TURBOJPEG_SOURCE)"
                .into(),
        );
    }
    Ok(folders)
}

/// libjpeg-turbo writes into its own configuration whether it was built with SIMD.
fn has_simd(config: &Path) -> bool {
    let text = std::fs::read_to_string(config).unwrap_or_default();
    text.lines().any(|line| line.split_whitespace().take(3).eq(["#define", "WITH_SIMD", "1"]))
}
