//! The declarations against NVIDIA's own header, where there is one: `FOREBAY_TEST_NVJPEG_INCLUDE` names its folder, as
//! `nvidia/nvjpeg/include` of the wheel nvidia-nvjpeg-cu12.

use std::mem::offset_of;
use std::process::Command;

use super::sys::{self, Allocator, Image, backend, status};

/// What of the CUDA toolkit's headers nvjpeg.h needs.
const TOOLKIT: [(&str, &str); 2] = [
    ("cuda_runtime_api.h", "#include <stddef.h>\ntypedef struct CUstream_st *cudaStream_t;\n"),
    ("library_types.h", "typedef enum { MAJOR_VERSION, MINOR_VERSION, PATCH_LEVEL } libraryPropertyType;\n"),
];

/// The functions as `sys` declares them, with the header's names for handles and enums, which are pointers and ints.
const FUNCTIONS: &str = "
S (*a)(nvjpegBackend_t, nvjpegDevAllocatorV2_t *, nvjpegPinnedAllocatorV2_t *, unsigned, nvjpegHandle_t *) = nvjpegCreateExV2;
S (*b)(nvjpegHandle_t) = nvjpegDestroy;
S (*c)(nvjpegHandle_t, nvjpegJpegState_t *) = nvjpegJpegStateCreate;
S (*d)(nvjpegJpegState_t) = nvjpegJpegStateDestroy;
S (*e)(nvjpegHandle_t, nvjpegJpegStream_t *) = nvjpegJpegStreamCreate;
S (*f)(nvjpegJpegStream_t) = nvjpegJpegStreamDestroy;
S (*g)(nvjpegHandle_t, const unsigned char *, size_t, nvjpegJpegStream_t) = nvjpegJpegStreamParseHeader;
S (*h)(nvjpegJpegStream_t, unsigned *, unsigned *) = nvjpegJpegStreamGetFrameDimensions;
S (*i)(nvjpegJpegStream_t, nvjpegChromaSubsampling_t *) = nvjpegJpegStreamGetChromaSubsampling;
S (*j)(nvjpegHandle_t, nvjpegJpegStream_t, int *) = nvjpegDecodeBatchedSupported;
S (*k)(nvjpegHandle_t, nvjpegJpegState_t, int, int, nvjpegOutputFormat_t) = nvjpegDecodeBatchedInitialize;
S (*l)(nvjpegHandle_t, nvjpegJpegState_t, const unsigned char *const *, const size_t *, nvjpegImage_t *, cudaStream_t)
  = nvjpegDecodeBatched;
S (*m)(libraryPropertyType, int *) = nvjpegGetProperty;
int (*allocate)(void *, void **, size_t, cudaStream_t);
int (*release)(void *, void *, size_t, cudaStream_t);
tDevMallocV2 *n = &allocate;
tPinnedMallocV2 *o = &allocate;
tDevFreeV2 *p = &release;
tPinnedFreeV2 *q = &release;
";

#[test]
fn declarations_are_those_of_the_header() {
    let Some(include) = std::env::var_os("FOREBAY_TEST_NVJPEG_INCLUDE") else {
        eprintln!(
            "without FOREBAY_TEST_NVJPEG_INCLUDE nvJPEG's declarations are not compared with its header"
        );
        return;
    };
    let handles = ["nvjpegHandle_t", "nvjpegJpegState_t", "nvjpegJpegStream_t"];
    let enums = ["nvjpegStatus_t", "nvjpegBackend_t", "nvjpegOutputFormat_t", "nvjpegChromaSubsampling_t"];
    let mut facts: Vec<(String, i64)> = [
        ("sizeof(nvjpegImage_t)", size_of::<Image>()),
        ("_Alignof(nvjpegImage_t)", align_of::<Image>()),
        ("offsetof(nvjpegImage_t, channel)", offset_of!(Image, channel)),
        ("offsetof(nvjpegImage_t, pitch)", offset_of!(Image, pitch)),
        ("sizeof(nvjpegDevAllocatorV2_t)", size_of::<Allocator>()),
        ("offsetof(nvjpegDevAllocatorV2_t, dev_malloc)", offset_of!(Allocator, allocate)),
        ("offsetof(nvjpegDevAllocatorV2_t, dev_free)", offset_of!(Allocator, free)),
        ("offsetof(nvjpegDevAllocatorV2_t, dev_ctx)", offset_of!(Allocator, context)),
        ("sizeof(nvjpegPinnedAllocatorV2_t)", size_of::<Allocator>()),
        ("offsetof(nvjpegPinnedAllocatorV2_t, pinned_malloc)", offset_of!(Allocator, allocate)),
        ("offsetof(nvjpegPinnedAllocatorV2_t, pinned_free)", offset_of!(Allocator, free)),
        ("offsetof(nvjpegPinnedAllocatorV2_t, pinned_ctx)", offset_of!(Allocator, context)),
    ]
    .map(|(fact, value)| (fact.to_owned(), value as i64))
    .into();
    facts.extend(handles.map(|handle| (format!("sizeof({handle})"), size_of::<sys::Handle>() as i64)));
    facts.extend(enums.map(|name| (format!("sizeof({name})"), size_of::<i32>() as i64)));
    facts.extend((0..=status::INCOMPLETE_BITSTREAM).map(|code| (status::name(code).to_owned(), code.into())));
    for (name, value) in [
        ("NVJPEG_BACKEND_DEFAULT", backend::DEFAULT),
        ("NVJPEG_BACKEND_GPU_HYBRID", backend::GPU_HYBRID),
        ("NVJPEG_BACKEND_HARDWARE", backend::HARDWARE),
        ("NVJPEG_OUTPUT_RGBI", sys::RGB_INTERLEAVED),
        ("NVJPEG_CSS_UNKNOWN", sys::UNKNOWN_SUBSAMPLING),
        ("(NVJPEG_FLAGS_BITSTREAM_STRICT)", sys::STRICT as i32),
        ("MAJOR_VERSION", sys::VERSION[0]),
        ("PATCH_LEVEL", sys::VERSION[2]),
    ] {
        facts.push((name.to_owned(), value.into()));
    }
    let facts: String = facts
        .iter()
        .map(|(fact, value)| format!("_Static_assert({fact} == {value}, \"{fact}\");\n"))
        .collect();
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in TOOLKIT {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let source = folder.path().join("declarations.c");
    std::fs::write(&source, format!("#include \"nvjpeg.h\"\n#define S nvjpegStatus_t\n{facts}{FUNCTIONS}"))
        .unwrap();
    let mut compiler = Command::new("cc");
    compiler.args(["-fsyntax-only", "-Werror=incompatible-pointer-types", "-I"]).arg(folder.path());
    let output = compiler.arg("-I").arg(include).arg(source).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
