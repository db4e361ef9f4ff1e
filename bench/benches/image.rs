//! Images: parsing ranges, and taking one in beside MD5 alone over the same bytes.

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use md5::{Digest, Md5};
use sluicegate::image::Declared;
use sluicegate::image::ImageStore;
use sluicegate::image::range;
use std::hint::black_box;

fn ranges(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("range parsing");
    let ten = (0..10).map(|n| format!("{}-{}", n * 4096, n * 4096 + 1023)).collect::<Vec<_>>().join(",");
    for (label, header) in
        [("single", "bytes=603695104-603696127".to_owned()), ("suffix", "bytes=-1024".to_owned()), ("ten", format!("bytes={ten}"))]
    {
        group.bench_function(label, |bencher| bencher.iter(|| range::parse(black_box(&header), 603_696_942)));
    }
    group.finish();
}

const IMAGE_BYTES: usize = 256 << 20;
const PIECE_BYTES: usize = 256 << 10;

fn ingest(criterion: &mut Criterion) {
    // Bytes that differ from run to run, so that none is there already.
    let mut bytes = vec![0u8; IMAGE_BYTES];
    for (place, word) in bytes.chunks_exact_mut(8).enumerate() {
        word.copy_from_slice(&(place as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes());
    }
    let mut group = criterion.benchmark_group("ingest 256 MiB");
    group.throughput(Throughput::Bytes(IMAGE_BYTES as u64)).sample_size(10);
    group.bench_function("MD5 alone", |bencher| bencher.iter(|| Md5::digest(black_box(&bytes))));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = ImageStore::open(folder.path()).expect("a fresh folder opens");
    let mut run = 0u64;
    group.bench_function("ingest", |bencher| {
        bencher.iter(|| {
            run += 1;
            bytes[..8].copy_from_slice(&run.to_le_bytes());
            let shared = Bytes::copy_from_slice(&bytes);
            let mut ingest = store.begin(Declared::default(), u64::MAX).expect("the disk has room");
            for offset in (0..IMAGE_BYTES).step_by(PIECE_BYTES) {
                ingest.write(shared.slice(offset..offset + PIECE_BYTES)).expect("the disk has room");
            }
            let (image, _) = ingest.finish().expect("nothing was declared that could differ");
            store.remove(image.id()).expect("the image is there");
        });
    });
    group.finish();
}

criterion_group!(benches, ranges, ingest);
criterion_main!(benches);
