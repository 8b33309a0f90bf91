//! What a device says of itself.

use std::str::FromStr;
use std::sync::Arc;

use forebay_gpu::cuda::CudaDevice;
use forebay_gpu::{Device, Which};

pub(crate) fn free_memory_is_a_part_of_all(device: &Arc<dyn Device>) {
    let (free, total) = (device.free_bytes().unwrap(), device.facts().total_bytes);
    assert!(free > 0 && free <= total, "{free} of {total}");
    let (at, taken) = device.take(4 << 20, "a test").unwrap();
    assert!(device.free_bytes().unwrap() <= total - taken);
    // SAFETY: taken above, and nothing was done with it.
    unsafe { device.give_back(at, taken) };
}

pub(crate) fn a_cuda_device_tells_what_it_is(device: &Arc<dyn Device>) {
    let facts = device.facts();
    assert!(facts.name.starts_with(&format!("cuda:{} (", facts.index)), "{facts:?}");
    assert_eq!(facts.dlpack_type, 2);
    assert!(facts.capability >= (7, 0) && facts.driver >= (12, 0), "{facts:?}");
    assert_eq!(facts.driver, CudaDevice::version().unwrap());
    let uuid = facts.uuid.as_ref().unwrap();
    assert!(uuid.starts_with("GPU-") || uuid.starts_with("MIG-"), "{uuid}");
    assert_eq!(uuid.len(), "GPU-00000000-0000-0000-0000-000000000000".len());
    let pci = facts.pci.as_ref().unwrap();
    assert_eq!((pci.matches(':').count(), pci.matches('.').count()), (2, 1), "{pci}");
    assert!(["virtual memory", "cuMemAlloc"].contains(&device.memory_kind()));
    let library = CudaDevice::library().unwrap();
    assert!(library.to_string_lossy().contains("libcuda.so"), "{}", library.display());
}

pub(crate) fn a_device_is_opened_once_by_whatever_name(device: &Arc<dyn Device>) {
    let facts = device.facts();
    for name in [format!("cuda:{}", facts.index), format!("cuda:{}", facts.uuid.as_ref().unwrap())] {
        let same = CudaDevice::open(&Which::from_str(&name).unwrap()).unwrap();
        assert!(Arc::ptr_eq(device, &same), "{name}");
    }
}
