//! How many threads the lab computes with; results do not depend on it.

use std::num::NonZeroUsize;

use crate::error::LabError;

/// Sets the number of worker threads of this process, once, before the first job.
///
/// # Errors
/// [`LabError::Threads`] if the threads cannot be started or were started before.
pub fn use_threads(count: NonZeroUsize) -> Result<(), LabError> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(count.get())
        .build_global()
        .map_err(|source| LabError::Threads { count: count.get(), source })
}
