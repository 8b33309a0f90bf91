//! What the owner's side needs of the tiers behind it.

use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;
use tokio::sync::mpsc;

use crate::disk::{Advice, Advisor, Evict, Grant, Progress, Status};
use crate::error::Result;
use crate::memory::Region;
use crate::object::{BlockId, ByteRange, Location, ObjectId, ObjectMeta};
use crate::stats::CacheStats;
use crate::tiered::{self, Hold, Prefetched, Read};

/// The tiers of a process that owns its folder, as a trait so that the protocol is tested without a disk.
pub(crate) trait Folder: Send + Sync + fmt::Debug {
    /// As [`tiered::Cache::object`].
    fn object<'a>(&'a self, location: &'a Location) -> BoxFuture<'a, Result<Arc<ObjectMeta>>>;
    /// As [`tiered::Cache::grant`].
    fn grant<'a>(
        &'a self,
        object: &'a Arc<ObjectMeta>,
        range: ByteRange,
    ) -> BoxFuture<'a, Result<Option<Grant>>>;
    /// As [`tiered::Cache::read`].
    fn read<'a>(
        &'a self,
        object: &'a Arc<ObjectMeta>,
        range: ByteRange,
        region: &'a Region,
    ) -> BoxFuture<'a, Result<Read>>;
    /// As [`tiered::Cache::prefetch`].
    fn prefetch<'a>(
        &'a self,
        object: &'a Arc<ObjectMeta>,
        range: ByteRange,
    ) -> BoxFuture<'a, Result<Prefetched>>;
    /// As [`tiered::Cache::hold`].
    fn hold<'a>(&'a self, object: &'a Arc<ObjectMeta>, range: ByteRange) -> BoxFuture<'a, Result<Hold>>;
    /// As [`tiered::Cache::recheck`].
    fn recheck(&self, block: BlockId) -> BoxFuture<'_, Result<bool>>;
    /// As [`tiered::Cache::advise_for`].
    fn advise(&self, by: Advisor, object: &ObjectId, range: ByteRange, advice: Advice);
    /// As [`tiered::Cache::withdraw`].
    fn withdraw(&self, by: Advisor);
    /// As [`tiered::Cache::release_evictions`].
    fn release_evictions(&self);
    /// As [`tiered::Cache::aux_get`].
    fn aux_get<'a>(&'a self, kind: &'a str, id: &'a ObjectId) -> BoxFuture<'a, Result<Option<Vec<u8>>>>;
    /// As [`tiered::Cache::aux_put`].
    fn aux_put<'a>(&'a self, kind: &'a str, id: &'a ObjectId, bytes: Vec<u8>) -> BoxFuture<'a, Result<bool>>;
    /// As [`tiered::Cache::evict`].
    fn evict(&self, what: Evict) -> BoxFuture<'_, Result<u64>>;
    /// As [`tiered::Cache::verify`].
    fn verify(&self) -> Result<mpsc::Receiver<Progress>>;
    /// As [`tiered::Cache::status`].
    fn status(&self) -> BoxFuture<'_, Result<Status>>;
    /// As [`tiered::Cache::stats`].
    fn stats(&self) -> CacheStats;
    /// As [`tiered::Cache::close`].
    fn close(&self) -> BoxFuture<'_, Result<()>>;
}

impl Folder for tiered::Cache {
    fn object<'a>(&'a self, location: &'a Location) -> BoxFuture<'a, Result<Arc<ObjectMeta>>> {
        Box::pin(self.object(location))
    }

    fn grant<'a>(
        &'a self,
        object: &'a Arc<ObjectMeta>,
        range: ByteRange,
    ) -> BoxFuture<'a, Result<Option<Grant>>> {
        Box::pin(self.grant(object, range))
    }

    fn read<'a>(
        &'a self,
        object: &'a Arc<ObjectMeta>,
        range: ByteRange,
        region: &'a Region,
    ) -> BoxFuture<'a, Result<Read>> {
        Box::pin(self.read(object, range, region))
    }

    fn prefetch<'a>(
        &'a self,
        object: &'a Arc<ObjectMeta>,
        range: ByteRange,
    ) -> BoxFuture<'a, Result<Prefetched>> {
        Box::pin(self.prefetch(object, range))
    }

    fn hold<'a>(&'a self, object: &'a Arc<ObjectMeta>, range: ByteRange) -> BoxFuture<'a, Result<Hold>> {
        Box::pin(self.hold(object, range))
    }

    fn recheck(&self, block: BlockId) -> BoxFuture<'_, Result<bool>> {
        Box::pin(self.recheck(block))
    }

    fn advise(&self, by: Advisor, object: &ObjectId, range: ByteRange, advice: Advice) {
        self.advise_for(by, object, range, advice);
    }

    fn withdraw(&self, by: Advisor) {
        self.withdraw(by);
    }

    fn release_evictions(&self) {
        self.release_evictions();
    }

    fn aux_get<'a>(&'a self, kind: &'a str, id: &'a ObjectId) -> BoxFuture<'a, Result<Option<Vec<u8>>>> {
        Box::pin(self.aux_get(kind, id))
    }

    fn aux_put<'a>(&'a self, kind: &'a str, id: &'a ObjectId, bytes: Vec<u8>) -> BoxFuture<'a, Result<bool>> {
        Box::pin(self.aux_put(kind, id, bytes))
    }

    fn evict(&self, what: Evict) -> BoxFuture<'_, Result<u64>> {
        Box::pin(self.evict(what))
    }

    fn verify(&self) -> Result<mpsc::Receiver<Progress>> {
        self.verify()
    }

    fn status(&self) -> BoxFuture<'_, Result<Status>> {
        Box::pin(self.status())
    }

    fn stats(&self) -> CacheStats {
        self.stats()
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.close())
    }
}
