//! How many blocks of how many threads.

/// Blocks and threads of a launch, along x, y, z. No kernel needs dynamic shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
}

/// Threads of a block at most: the kernels are compiled for it.
const THREADS: u64 = 256;
/// Blocks along x, and along y and z, that every device allows.
const MOST_BLOCKS: [u64; 3] = [(1 << 31) - 1, 65_535, 65_535];

impl Launch {
    /// For so much work along each direction. Threads go on in steps of the grid where there is more than that.
    pub(crate) fn over(work: [u64; 3]) -> Self {
        let fit = |work: u64, most: u64| work.clamp(1, most).next_power_of_two();
        let x = fit(work[0], THREADS);
        let block = [x, fit(work[1], THREADS / x), 1];
        let blocks = |axis: usize| work[axis].div_ceil(block[axis]).clamp(1, MOST_BLOCKS[axis]) as u32;
        Self { grid: [blocks(0), blocks(1), blocks(2)], block: block.map(|threads| threads as u32) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_have_as_many_threads_as_there_is_work_for() {
        let over = |work| {
            let Launch { grid, block } = Launch::over(work);
            (grid, block)
        };
        assert_eq!(over([0, 0, 0]), ([1, 1, 1], [1, 1, 1]));
        assert_eq!(over([9408, 256, 1]), ([37, 256, 1], [256, 1, 1]));
        assert_eq!(over([1, 1000, 1]), ([1, 4, 1], [1, 256, 1]));
        assert_eq!(over([56, 224, 256]), ([1, 56, 256], [64, 4, 1]));
    }

    #[test]
    fn more_work_than_blocks_are_allowed_is_left_to_the_kernels_loops() {
        let Launch { grid, block } = Launch::over([u64::MAX, u64::MAX, u64::MAX]);
        assert_eq!((grid, block), ([(1 << 31) - 1, 65_535, 65_535], [256, 1, 1]));
    }
}
