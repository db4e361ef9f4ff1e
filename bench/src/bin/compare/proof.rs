//! That both servers serve what they should, before it is measured how fast: whole images by digest, ranges byte by byte.

use crate::content::Random;
use crate::failure::{Context, Failure, Outcome};
use crate::http::{Client, Reply};
use crate::sluicegate::{Image, Request};
use std::fs::File;
use std::os::unix::fs::FileExt;

/// The whole image, digested.
pub(crate) fn expect_whole(client: &mut Client, image: &Image) -> Outcome<()> {
    let got = client.fetch(&image.target)?;
    if got != image.digested {
        return Err(Failure::new(format!("expected {} bytes of one digest, got {} of another", image.size, got.0)));
    }
    Ok(())
}

/// A few single ranges, and a few requests of ten.
pub(crate) fn expect_ranges(client: &mut Client, image: &Image) -> Outcome<()> {
    let file = File::open(&image.file).context(|| format!("{} can't be read", image.file.display()))?;
    for (count, range_bytes) in [(1, 1 << 10), (1, 64 << 10), (10, 1 << 10)] {
        for request in scattered_ranges(image, count, range_bytes, 8, &mut Random::new(range_bytes)) {
            let (name, value) = (request.header.0, request.header.1.as_str());
            let reply = client.call("GET", &request.target, &[(name, value)], &[])?;
            if reply.status != 206 {
                return Err(Failure::new(format!("{value}: expected 206, got {}", reply.status)));
            }
            let mut rest = &reply.body[..];
            for offset in offsets_of(value) {
                let mut expected = vec![0; usize::try_from(range_bytes).unwrap_or_default()];
                file.read_exact_at(&mut expected, offset).context(|| format!("{}", image.file.display()))?;
                // Between the parts of several ranges stand boundaries of each server's own making.
                let at = rest.windows(expected.len()).position(|window| window == expected);
                let at =
                    at.context(|| format!("{value}: the bytes from {offset} on aren't in the reply, or not in their place"))?;
                rest = &rest[at + expected.len()..];
            }
            if count == 1 && reply.body.len() as u64 != range_bytes {
                return Err(Failure::new(format!("{value}: expected {range_bytes} bytes, got {}", reply.body.len())));
            }
        }
    }
    Ok(())
}

/// nginx's constant has to be of the very size of our reply.
pub(crate) fn expect_same_size(what: &str, ours: &Reply, nginx: &Reply) -> Outcome<()> {
    if (ours.status, &ours.body) != (nginx.status, &nginx.body) {
        return Err(Failure::new(format!(
            "{what}: expected of nginx {} {}, got {} {}",
            ours.status,
            ours.text(),
            nginx.status,
            nginx.text()
        )));
    }
    Ok(())
}

/// Requests for `count` ranges of `range_bytes` each, anywhere in the image at multiples of their size.
pub(crate) fn scattered_ranges(image: &Image, count: u64, range_bytes: u64, requests: usize, random: &mut Random) -> Vec<Request> {
    let blocks = image.size / range_bytes;
    let mut range = || {
        let offset = random.below(blocks) * range_bytes;
        format!("{offset}-{}", offset + range_bytes - 1)
    };
    let mut request = || {
        let ranges: Vec<String> = (0..count).map(|_| range()).collect();
        let header = ("Range", format!("bytes={}", ranges.join(",")));
        Request { method: "GET", target: image.target.clone(), header, body: String::new() }
    };
    (0..requests).map(|_| request()).collect()
}

/// Where the ranges of a header begin.
fn offsets_of(value: &str) -> impl Iterator<Item = u64> {
    let ranges = value.trim_start_matches("bytes=").split(',');
    ranges.filter_map(|range| range.split_once('-')?.0.parse().ok())
}
