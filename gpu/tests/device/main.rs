//! What every device does: one set of tests, on host memory and on CUDA.
//!
//! Those on CUDA need a driver, and are left out of a plain run: `make test-gpu` runs them on the simulated one, `make gpu-check` on a real one.

#![allow(unsafe_code, reason = "raw copies and launches, whose ends the tests keep")]
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod copies;
mod facts;
mod kernels;
mod memory;
mod order;
mod place;

use std::sync::Arc;

use forebay_gpu::cuda::CudaDevice;
use forebay_gpu::host::HostDevice;
use forebay_gpu::{Device, Which};
use parking_lot::Mutex;

fn at_once() -> Arc<dyn Device> {
    HostDevice::new(64 << 20)
}

/// Works only when somebody blocks on it.
fn held() -> Arc<dyn Device> {
    HostDevice::held(64 << 20)
}

/// Tests on CUDA go one at a time: some take all of the device's memory.
static ALONE: Mutex<()> = Mutex::new(());

fn cuda() -> Arc<dyn Device> {
    CudaDevice::open(&Which::OfThisRank { local_rank: None }).unwrap()
}

macro_rules! on_cuda {
    ($($part:ident::$test:ident,)*) => {
        $(
            #[test]
            #[ignore = "needs a CUDA driver: make test-gpu, make gpu-check"]
            fn $test() {
                let _alone = crate::ALONE.lock();
                crate::$part::$test(&crate::cuda());
            }
        )*
    };
}

macro_rules! on_every_device {
    ($($part:ident::$test:ident,)*) => {
        mod host_at_once {
            $(
                #[test]
                fn $test() {
                    crate::$part::$test(&crate::at_once());
                }
            )*
        }
        mod host_held {
            $(
                #[test]
                fn $test() {
                    crate::$part::$test(&crate::held());
                }
            )*
        }
        mod cuda {
            on_cuda! { $($part::$test,)* }
            on_cuda! {
                facts::a_cuda_device_tells_what_it_is,
                facts::a_device_is_opened_once_by_whatever_name,
                kernels::rows_are_gathered_as_on_the_host,
                kernels::every_number_becomes_every_other_as_on_the_host,
                kernels::pictures_are_converted_as_on_the_host,
                kernels::pictures_are_cut_as_on_the_host,
                kernels::pictures_are_resized_as_on_the_host,
                kernels::a_kernel_that_there_is_none_of_is_an_error,
            }
        }
    };
}

on_every_device! {
    copies::bytes_come_back_whatever_their_number_and_place,
    copies::nothing_beside_a_copy_is_touched,
    order::a_stream_works_in_the_order_of_its_calls,
    order::a_stream_waits_for_what_an_event_stands_for,
    order::an_event_is_done_when_its_work_is,
    order::everything_is_done_behind_a_wait_for_everything,
    order::a_stream_of_ours_is_not_being_captured,
    order::any_thread_may_call_at_any_time,
    memory::what_is_taken_is_apart_and_aligned,
    memory::more_than_there_is_is_an_error_that_takes_nothing,
    memory::host_memory_is_pinned_again_once_it_was_let_go,
    memory::a_budget_is_used_over_and_over_with_the_right_bytes,
    memory::more_than_the_budget_is_an_error_with_its_numbers,
    facts::free_memory_is_a_part_of_all,
}
