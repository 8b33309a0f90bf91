//! A simulated machine for one test at a time: the shared library, loaded under the names of the driver and of nvJPEG.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use forebay_gpu::cuda::CudaDevice;
use forebay_gpu::jpeg::{Decoder, Image, Settings};
use forebay_gpu::{Device, DeviceMemory, DeviceSlab, Event, Stream, Which};

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// The library and a folder where it is called `libnvjpeg.so.12`.
static LIBRARY: LazyLock<Library> = LazyLock::new(Library::load);

struct Library {
    handle: usize,
    folder: tempfile::TempDir,
}

impl Library {
    /// Loaded before anybody asks for a driver, so that whoever asks for `libcuda.so.1` gets this.
    fn load() -> Self {
        let file = std::env::current_exe().unwrap().with_file_name("libforebay_fake_cuda.so");
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(&file, folder.path().join("libnvjpeg.so.12")).unwrap();
        let name = CString::new(file.to_str().unwrap()).unwrap();
        // SAFETY: the library has no constructors.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
        assert!(!handle.is_null(), "{file:?}");
        Self { handle: handle.expose_provenance(), folder }
    }

    /// The function of a name, as a type of the caller's choice.
    fn get<F: Copy>(&self, name: &CStr) -> F {
        // SAFETY: a look-up in a library that stays loaded.
        let function =
            unsafe { libc::dlsym(std::ptr::with_exposed_provenance_mut(self.handle), name.as_ptr()) };
        assert!(!function.is_null(), "{name:?}");
        assert_eq!(size_of::<F>(), size_of::<*mut c_void>());
        // SAFETY: the tests ask for the functions' own types, which are pointers.
        unsafe { std::mem::transmute_copy(&function) }
    }
}

/// A machine of the calling test's own. Dropped by a test that passes, it has found nothing and got everything back.
pub(crate) struct Machine {
    library: &'static Library,
    _alone: MutexGuard<'static, ()>,
}

impl Machine {
    /// With the simulator's settings, as one line.
    pub(crate) fn with(settings: &str) -> Self {
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let machine = Self { library: &LIBRARY, _alone: alone };
        machine.library.get::<extern "C" fn()>(c"forebay_fake_reset")();
        machine.configure("quiet=1");
        machine.configure(settings);
        assert_eq!(machine.library.get::<extern "C" fn(u32) -> c_int>(c"cuInit")(0), 0);
        machine
    }

    pub(crate) fn configure(&self, line: &str) {
        let line = CString::new(line).unwrap();
        let configure: extern "C" fn(*const c_char) -> c_int = self.library.get(c"forebay_fake_configure");
        assert_eq!(configure(line.as_ptr()), 0, "{line:?}");
    }

    pub(crate) fn counter(&self, name: &str) -> u64 {
        let name = CString::new(name).unwrap();
        self.library.get::<extern "C" fn(*const c_char) -> u64>(c"forebay_fake_counter")(name.as_ptr())
    }

    /// Work that is submitted from now on begins when a call waits for it.
    pub(crate) fn hold(&self) {
        self.library.get::<extern "C" fn(c_int)>(c"forebay_fake_hold")(1);
    }

    /// What was found since the last time.
    pub(crate) fn findings(&self) -> String {
        let take: extern "C" fn(*mut c_char, usize) -> usize =
            self.library.get(c"forebay_fake_take_findings");
        let mut text = vec![0u8; take(std::ptr::null_mut(), 0)];
        assert_eq!(take(text.as_mut_ptr().cast(), text.len()), text.len());
        text.pop();
        String::from_utf8(text).unwrap()
    }

    /// The thread's contexts and capture mode.
    pub(crate) fn thread(&self) -> u64 {
        self.library.get::<extern "C" fn() -> u64>(c"forebay_fake_thread_state")()
    }

    /// Writes a copy of the library that lacks functions.
    pub(crate) fn write_older(&self, file: &Path, functions: &str) {
        let (file, functions) =
            (CString::new(file.to_str().unwrap()).unwrap(), CString::new(functions).unwrap());
        let write: extern "C" fn(*const c_char, *const c_char) -> c_int =
            self.library.get(c"forebay_fake_write_older");
        assert_eq!(write(file.as_ptr(), functions.as_ptr()), 0);
    }

    /// Where nvJPEG is.
    pub(crate) fn folder(&self) -> PathBuf {
        self.library.folder.path().to_owned()
    }

    pub(crate) fn settings(&self) -> Settings {
        Settings { folders: vec![self.folder()], ..Settings::default() }
    }

    pub(crate) fn device(&self) -> Arc<dyn Device> {
        CudaDevice::open(&Which::Index(0)).unwrap()
    }

    pub(crate) fn memory(&self, bytes: u64) -> DeviceMemory {
        DeviceMemory::new(&self.device(), bytes).unwrap()
    }

    pub(crate) fn decoder(&self, memory: &DeviceMemory) -> Decoder {
        Decoder::open(memory, &self.settings()).unwrap()
    }

    /// Nothing was found, and nothing is left: everything of the device's was dropped.
    pub(crate) fn check(self) {
        let found = self.findings();
        assert!(found.is_empty(), "{found}");
        self.library.get::<extern "C" fn() -> u64>(c"forebay_fake_leaks")();
        let left = self.findings();
        assert!(left.is_empty(), "{left}");
    }
}

/// A group in one target, one image behind the other with gaps between their rows.
pub(crate) fn lay_out(
    decoder: &mut Decoder,
    memory: &DeviceMemory,
    files: &[&[u8]],
) -> (Vec<Image>, DeviceSlab) {
    let mut offset = 0;
    let images: Vec<_> = files
        .iter()
        .map(|file| {
            let frame =
                decoder.look(file).unwrap().unwrap_or(forebay_gpu::jpeg::Frame { width: 1, height: 1 });
            let pitch = frame.row_bytes() + 5;
            let bytes = forebay_cache::Lease::from_vec(file.to_vec());
            let image = Image { bytes, frame, target: 0, offset, pitch };
            offset += frame.bytes(pitch) + 3;
            image
        })
        .collect();
    (images, memory.take(offset.max(1), "a group").unwrap().unwrap())
}

/// The bytes of device memory, copied by a stream that waits for `done`.
pub(crate) fn read(memory: &DeviceMemory, slab: &DeviceSlab, done: &Event) -> Vec<u8> {
    let (device, bytes) = (memory.device(), slab.len() as usize);
    let stream = Stream::new(device).unwrap();
    done.wait_on(stream.raw()).unwrap();
    let copy = memory.take(slab.len(), "a copy").unwrap().unwrap();
    // SAFETY: both slabs live until the copy is done, which is waited for.
    unsafe { device.copy_within(slab.address(), copy.address(), bytes, stream.raw()).unwrap() };
    Event::record(device, stream.raw()).unwrap().block().unwrap();
    let at = LIBRARY.get::<extern "C" fn(u64) -> *const u8>(c"forebay_fake_bytes")(copy.address().0);
    // SAFETY: the simulator's own copy of those bytes, on which nothing is under way.
    unsafe { std::slice::from_raw_parts(at, bytes) }.to_vec()
}

/// The rows of an image in what was read of its target, without their gaps.
pub(crate) fn rows_of(image: &Image, target: &[u8]) -> Vec<u8> {
    let rows = (0..u64::from(image.frame.height)).map(|row| {
        let start = (image.offset + row * image.pitch) as usize;
        &target[start..start + image.frame.row_bytes() as usize]
    });
    rows.collect::<Vec<_>>().concat()
}
