//! Placeholder until images are served.

use bytes::Bytes;
use sluicegate::model::{ImageId, Timestamp, UpgradeId};
use std::pin::Pin;
use std::task::{Context, Poll};

#[derive(Debug)]
pub struct ImageBody;

impl hyper::body::Body for ImageBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;
    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<hyper::body::Frame<Bytes>, Self::Error>>> {
        Poll::Ready(None)
    }
}

#[derive(Debug)]
pub struct LinkSigner;

impl LinkSigner {
    pub fn link(&self, public_url: &str, image: ImageId, upgrade: Option<UpgradeId>, expires_at: Timestamp) -> String {
        format!("{public_url}/images/{image}?{upgrade:?}{expires_at}")
    }
}
