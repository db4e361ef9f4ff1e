//! The store as a whole: what goes in comes out, or is refused, whatever happens between.

use super::*;
use bytes::Bytes;
use proptest::prelude::*;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::Barrier;
use std::thread;
use tempfile::TempDir;

const NO_LIMIT: u64 = u64::MAX;

/// Larger than what is hashed inline, and no multiple of a batch.
const LARGE_BYTES: usize = 3 * INLINE_BYTES_MAX + 12_345;

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    fn open(&self) -> ImageStore {
        ImageStore::open(self.0.path()).expect("the store opens")
    }

    fn path(&self, id: ImageId) -> PathBuf {
        path_of(&self.0.path().join("images"), id)
    }

    /// All files under `images/`, those on their way in too.
    fn files(&self) -> Vec<String> {
        let images = self.0.path().join("images");
        let mut files = Vec::new();
        for folder in fs::read_dir(&images).unwrap() {
            for file in fs::read_dir(folder.unwrap().path()).unwrap() {
                files.push(file.unwrap().path().strip_prefix(&images).unwrap().to_string_lossy().into_owned());
            }
        }
        files.sort();
        files
    }

    /// Changes the file as no part of the store ever does: in place.
    fn overwrite(&self, id: ImageId, content: &[u8]) {
        let path = self.path(id);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        fs::write(&path, content).unwrap();
    }

    /// Puts another file under the name, as a restore from a backup does.
    fn replace(&self, id: ImageId, content: &[u8]) {
        let other = self.0.path().join("restored");
        fs::write(&other, content).unwrap();
        fs::rename(other, self.path(id)).unwrap();
    }
}

/// Bytes that don't repeat within an image.
fn content(length: usize, seed: u8) -> Vec<u8> {
    let mut state = u32::from(seed).wrapping_mul(2_654_435_761) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    };
    (0..length).map(|_| next()).collect()
}

fn upload(store: &ImageStore, declared: Declared, content: &[u8], piece: usize) -> Result<(SealedImage, bool), IngestError> {
    let mut ingest = store.begin(declared, NO_LIMIT)?;
    for piece in content.chunks(piece) {
        ingest.write(Bytes::copy_from_slice(piece))?;
    }
    ingest.finish()
}

fn put(store: &ImageStore, content: &[u8]) -> SealedImage {
    upload(store, Declared::default(), content, 64 * 1024).expect("the upload passes").0
}

#[test]
fn an_image_comes_out_as_it_went_in_whatever_its_size_and_pieces() {
    let folder = Folder::new();
    let store = folder.open();
    let sizes = [0, 1, 63, 64 * 1024, INLINE_BYTES_MAX, INLINE_BYTES_MAX + 1, INLINE_BYTES_MAX + BATCH_BYTES, LARGE_BYTES];
    for (seed, size) in sizes.into_iter().enumerate() {
        let content = content(size, seed as u8);
        let expected = Digests::of(&[Bytes::copy_from_slice(&content)]);
        for piece in [1_000, 100_000, 1 << 30] {
            let (image, already_there) = upload(&store, Declared::default(), &content, piece).unwrap();
            assert_eq!(
                (image.id(), image.size(), image.md5(), image.sha1()),
                (expected.id, size as u64, expected.md5, expected.sha1)
            );
            assert!(image.bytes() == content, "{size} bytes in pieces of {piece}");
            assert_eq!(already_there, piece != 1_000);
        }
        let metadata = fs::metadata(folder.path(expected.id)).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, 0o444);
    }
    assert_eq!(folder.files().len(), sizes.len());
}

#[test]
fn an_image_is_found_under_the_digits_of_its_hash() {
    let folder = Folder::new();
    put(&folder.open(), b"abc");
    assert_eq!(folder.files(), ["ba/ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"]);
}

#[test]
fn the_same_bytes_again_leave_the_file_as_it_is() {
    let folder = Folder::new();
    for size in [100, LARGE_BYTES] {
        let content = content(size, 9);
        let id = put(&folder.open(), &content).id();
        let before = fs::metadata(folder.path(id)).unwrap();
        // Also after a start, when nothing of the image is known yet.
        let store = folder.open();
        for _ in 0..2 {
            assert!(upload(&store, Declared::default(), &content, 1 << 20).unwrap().1);
        }
        assert_eq!(Stamp::of(&before), Stamp::of(&fs::metadata(folder.path(id)).unwrap()));
    }
}

#[test]
fn what_was_declared_rightly_passes() {
    let store_folder = Folder::new();
    let store = store_folder.open();
    for size in [10, LARGE_BYTES] {
        let content = content(size, 3);
        let digests = Digests::of(&[Bytes::copy_from_slice(&content)]);
        let declared =
            Declared { size: Some(size as u64), md5: Some(digests.md5), sha256: Some(digests.id.0), sha1: Some(digests.sha1) };
        assert!(upload(&store, declared, &content, 50_000).is_ok());
    }
}

#[test]
fn what_was_declared_wrongly_is_refused_with_expected_and_got_and_nothing_is_kept() {
    let folder = Folder::new();
    let store = folder.open();
    for content in [b"abc".to_vec(), content(LARGE_BYTES, 1)] {
        let refused = |declared: Declared| upload(&store, declared, &content, 30_000).unwrap_err();
        let got = Digests::of(&[Bytes::copy_from_slice(&content)]);
        let size = content.len() as u64;
        for (error, expected, got) in [
            (refused(Declared { md5: Some([0xab; 16]), ..Declared::default() }), "ab".repeat(16), digest::hex(&got.md5)),
            (refused(Declared { sha1: Some([0xcd; 20]), ..Declared::default() }), "cd".repeat(20), digest::hex(&got.sha1)),
            (refused(Declared { sha256: Some([0; 32]), ..Declared::default() }), "00".repeat(32), got.id.to_string()),
            (refused(Declared { size: Some(size + 1), ..Declared::default() }), (size + 1).to_string(), size.to_string()),
            (refused(Declared { size: Some(2), ..Declared::default() }), "2 bytes".to_owned(), "got ".to_owned()),
        ] {
            assert!(error.is_uploaders_fault());
            let message = error.to_string();
            assert!(message.contains(&expected) && message.contains(&got), "{message}");
        }
    }
    assert!(folder.files().is_empty());
}

#[test]
fn more_bytes_than_allowed_are_refused_before_they_are_all_there() {
    let folder = Folder::new();
    let store = folder.open();
    let declared = Declared { size: Some(11), ..Declared::default() };
    assert!(matches!(store.begin(declared, 10), Err(IngestError::TooLarge { size_bytes_max: 10, got_bytes: 11 })));
    let mut ingest = store.begin(Declared::default(), 10).unwrap();
    ingest.write(Bytes::from_static(b"0123456789")).unwrap();
    assert!(matches!(ingest.write(Bytes::from_static(b"x")), Err(IngestError::TooLarge { size_bytes_max: 10, got_bytes: 11 })));
    // Whoever goes on all the same gets no image of the first ten.
    assert!(ingest.write(Bytes::from_static(b"y")).is_err());
    assert!(ingest.finish().is_err());
    let mut ingest = store.begin(Declared::default(), LARGE_BYTES as u64 - 1).unwrap();
    let result = content(LARGE_BYTES, 2).chunks(100_000).try_for_each(|piece| ingest.write(Bytes::copy_from_slice(piece)));
    assert!(matches!(result, Err(IngestError::TooLarge { .. })));
    drop(ingest);
    assert!(folder.files().is_empty());
}

#[test]
fn an_upload_that_is_dropped_half_way_leaves_nothing() {
    let folder = Folder::new();
    let store = folder.open();
    for size in [0, 10, LARGE_BYTES] {
        let mut ingest = store.begin(Declared { size: Some(NO_LIMIT / 4), ..Declared::default() }, NO_LIMIT).unwrap();
        // A declared size beyond the disk is refused when the temporary file is made; that too must leave nothing.
        let _ = ingest.write(content(size, 4).into());
        drop(ingest);
        let mut ingest = store.begin(Declared::default(), NO_LIMIT).unwrap();
        ingest.write(content(size, 4).into()).unwrap();
        drop(ingest);
        assert!(folder.files().is_empty(), "{size}");
    }
}

#[test]
fn a_declared_size_that_the_disk_cannot_hold_is_refused_as_a_full_disk() {
    let folder = Folder::new();
    // More than any disk of a test, less than file systems call absurd.
    let declared = Declared { size: Some(1 << 43), ..Declared::default() };
    let mut ingest = folder.open().begin(declared, NO_LIMIT).unwrap();
    let error = ingest.write(content(LARGE_BYTES, 5).into()).unwrap_err();
    assert!(matches!(error, IngestError::Full { .. }), "{error:?}");
    assert!(ingest.finish().is_err());
    assert!(folder.files().is_empty());
}

#[test]
fn what_a_crash_left_half_way_is_removed_at_the_next_start() {
    let folder = Folder::new();
    let id = put(&folder.open(), b"kept").id();
    fs::write(folder.0.path().join("images/incoming/17"), b"half").unwrap();
    let store = folder.open();
    assert_eq!(folder.files(), [format!("{}/{id}", &id.to_string()[..2])]);
    assert_eq!(store.open_image(id, 4).unwrap().bytes(), "kept");
}

#[test]
fn after_a_start_an_image_is_verified_before_it_is_seen() {
    let folder = Folder::new();
    for content in [content(100, 6), content(LARGE_BYTES, 6), vec![]] {
        let before = put(&folder.open(), &content);
        let store = folder.open();
        assert!(store.opened(before.id()).is_none());
        let image = store.open_image(before.id(), content.len() as u64).unwrap();
        assert!(image.bytes() == content);
        assert_eq!((image.md5(), image.sha1(), image.modified_at()), (before.md5(), before.sha1(), before.modified_at()));
        assert!(store.opened(before.id()).is_some());
    }
}

#[test]
fn a_missing_cut_or_damaged_image_is_refused_while_the_rest_serves() {
    let folder = Folder::new();
    let contents: Vec<Vec<u8>> = (0..4).map(|seed| content(LARGE_BYTES, seed)).collect();
    let ids: Vec<ImageId> = contents.iter().map(|content| put(&folder.open(), content).id()).collect();
    let mut damaged = contents[0].clone();
    damaged[LARGE_BYTES / 2] ^= 1;
    folder.overwrite(ids[0], &damaged);
    folder.overwrite(ids[1], &contents[1][1..]);
    fs::remove_file(folder.path(ids[2])).unwrap();

    let expected: Vec<(ImageId, u64)> = ids.iter().map(|id| (*id, LARGE_BYTES as u64)).collect();
    let problems = ImageStore::verify_all(folder.0.path(), &expected);
    assert_eq!(problems.len(), 3, "{problems:?}");
    for (problem, id) in problems.iter().zip(&ids) {
        assert!(problem.contains(&id.to_string()), "{problem}");
    }

    let store = folder.open();
    let open = |at: usize| store.open_image(ids[at], LARGE_BYTES as u64);
    let got = Digests::of(&[damaged.into()]).id;
    for _ in 0..2 {
        assert!(matches!(open(0), Err(ImageError::Damaged { expected, got: found }) if expected == ids[0] && found == got));
        assert!(matches!(open(1), Err(ImageError::WrongSize { got_bytes, .. }) if got_bytes == LARGE_BYTES as u64 - 1));
        assert!(matches!(open(2), Err(ImageError::Missing { id }) if id == ids[2]));
        assert!(open(3).unwrap().bytes() == contents[3]);
    }
}

#[test]
fn verifying_offline_changes_nothing_and_needs_no_folder() {
    let folder = Folder::new();
    let id = ImageId([7; 32]);
    assert_eq!(ImageStore::verify_all(folder.0.path(), &[(id, 1)]), [format!("image {id} is missing; upload it again")]);
    assert_eq!(fs::read_dir(folder.0.path()).unwrap().count(), 0);
}

#[test]
fn a_damaged_image_is_served_again_once_its_file_was_restored() {
    let folder = Folder::new();
    let content = content(LARGE_BYTES, 8);
    let id = put(&folder.open(), &content).id();
    folder.overwrite(id, &vec![0; LARGE_BYTES]);
    let store = folder.open();
    assert!(store.open_image(id, LARGE_BYTES as u64).is_err());
    folder.replace(id, &content);
    assert!(store.open_image(id, LARGE_BYTES as u64).unwrap().bytes() == content);
}

#[test]
fn uploading_a_damaged_cut_or_missing_image_again_repairs_it() {
    let folder = Folder::new();
    let content = content(50_000, 8);
    let id = put(&folder.open(), &content).id();
    let damages: [&dyn Fn(); 3] = [&|| folder.overwrite(id, &[0; 50_000]), &|| folder.overwrite(id, &content[..10]), &|| {
        fs::remove_file(folder.path(id)).unwrap()
    }];
    for damage in damages {
        damage();
        let store = folder.open();
        assert!(store.open_image(id, 50_000).is_err());
        assert!(!upload(&store, Declared::default(), &content, 4096).unwrap().1);
        assert!(store.open_image(id, 50_000).unwrap().bytes() == content);
        assert!(folder.open().open_image(id, 50_000).unwrap().bytes() == content);
    }
}

#[test]
fn uploading_again_restores_a_file_that_went_while_the_image_was_open() {
    let folder = Folder::new();
    let store = folder.open();
    let image = put(&store, b"still mapped");
    fs::remove_file(folder.path(image.id())).unwrap();
    assert!(!upload(&store, Declared::default(), b"still mapped", 100).unwrap().1);
    assert_eq!(fs::read(folder.path(image.id())).unwrap(), b"still mapped");
}

#[test]
fn the_same_bytes_ingested_by_many_at_once_become_one_file_and_one_is_told_it_is_new() {
    let folder = Folder::new();
    let store = folder.open();
    for content in [content(10_000, 1), content(LARGE_BYTES, 1)] {
        let uploaders = 8;
        let barrier = Barrier::new(uploaders);
        let answers: Vec<(SealedImage, bool)> = thread::scope(|scope| {
            let upload_one = || {
                barrier.wait();
                upload(&store, Declared::default(), &content, 65_536).unwrap()
            };
            let handles: Vec<_> = (0..uploaders).map(|_| scope.spawn(upload_one)).collect();
            handles.into_iter().map(|handle| handle.join().unwrap()).collect()
        });
        assert_eq!(answers.iter().filter(|(_, already_there)| !already_there).count(), 1);
        assert!(answers.iter().all(|(image, _)| image.bytes() == content));
    }
    assert_eq!(folder.files().len(), 2);
}

#[test]
fn an_image_opened_by_many_at_once_is_verified_and_mapped_once() {
    let folder = Folder::new();
    let id = put(&folder.open(), &content(LARGE_BYTES, 2)).id();
    let store = folder.open();
    let barrier = Barrier::new(8);
    let images: Vec<SealedImage> = thread::scope(|scope| {
        let open_one = || {
            barrier.wait();
            store.open_image(id, LARGE_BYTES as u64).unwrap()
        };
        let handles: Vec<_> = (0..8).map(|_| scope.spawn(open_one)).collect();
        handles.into_iter().map(|handle| handle.join().unwrap()).collect()
    });
    let address = |image: &SealedImage| image.bytes().as_ptr();
    assert!(images.iter().all(|image| address(image) == address(&images[0])));
}

#[test]
fn uploads_opens_and_removals_of_one_image_at_once_never_show_wrong_bytes() {
    let folder = Folder::new();
    let store = folder.open();
    let content = content(20_000, 3);
    let id = Digests::of(&[Bytes::copy_from_slice(&content)]).id;
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| (0..30).for_each(|_| assert!(put(&store, &content).bytes() == content)));
            scope.spawn(|| (0..60).for_each(|_| _ = store.remove(id).unwrap()));
            scope.spawn(|| {
                (0..200).for_each(|_| match store.open_image(id, 20_000) {
                    Ok(image) => assert!(image.bytes() == content),
                    Err(error) => assert!(matches!(error, ImageError::Missing { .. }), "{error}"),
                });
            });
        }
    });
    put(&store, &content);
    assert_eq!(folder.files().len(), 1);
    assert!(store.remove(id).unwrap());
    assert!(lock(&store.0.places).is_empty(), "a place of a removed image stays behind");
}

#[test]
fn a_removed_image_is_gone_but_its_readers_read_on() {
    let folder = Folder::new();
    let store = folder.open();
    let content = content(LARGE_BYTES, 4);
    let image = put(&store, &content);
    let slice = image.slice(ByteRange::clamped(1_000_000, 2_000_000, image.size()).unwrap());
    let id = image.id();
    drop(image);
    assert!(store.remove(id).unwrap());
    assert!(!store.remove(id).unwrap());
    assert!(store.opened(id).is_none());
    assert!(matches!(store.open_image(id, LARGE_BYTES as u64), Err(ImageError::Missing { .. })));
    assert!(slice == content[1_000_000..3_000_000]);
}

#[test]
fn idle_maps_beyond_the_bound_go_and_come_back_without_being_hashed_again() {
    let folder = Folder::new();
    let store = ImageStore::open_with(folder.0.path(), 4).unwrap();
    let in_use = put(&store, b"in use");
    let ids: Vec<ImageId> = (0..20u8).map(|seed| put(&store, &[seed; 100]).id()).collect();
    assert!(store.0.opened.len() <= 5);
    assert!(store.opened(in_use.id()).is_some());
    for id in ids {
        assert!(matches!(*lock(&lock(&store.0.places)[&id]), Place::Sound { .. }));
        assert_eq!(store.open_image(id, 100).unwrap().id(), id);
    }
}

#[test]
fn the_file_under_the_map_has_the_same_bytes_until_it_is_replaced() {
    let folder = Folder::new();
    let store = folder.open();
    let image = put(&store, b"for sendfile");
    assert_eq!(image.file().unwrap().metadata().unwrap().ino(), fs::metadata(folder.path(image.id())).unwrap().ino());
    let other = put(&store, b"not opened in time");
    folder.replace(other.id(), b"another file");
    assert!(other.file().is_err());
}

#[test]
fn what_is_derived_from_an_image_is_computed_once() {
    let folder = Folder::new();
    let image = put(&folder.open(), b"abc");
    assert_eq!(image.derived(|image| image.size()), Some(&3));
    assert_eq!(image.clone().derived(|_| 4u64), Some(&3));
    assert_eq!(image.derived(|_| "another type".to_owned()), None);
}

#[test]
#[should_panic(expected = "was made for another image")]
fn a_range_made_for_a_larger_image_is_not_served_from_a_smaller() {
    let folder = Folder::new();
    put(&folder.open(), b"abc").slice(ByteRange::whole(4));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Where the pieces are cut changes nothing, on either side of the border between inline and threads.
    #[test]
    fn any_cutting_into_pieces_gives_the_same_image(size in 0usize..2 * INLINE_BYTES_MAX, cuts in prop::collection::vec(1usize..600_000, 1..8)) {
        let folder = Folder::new();
        let store = folder.open();
        let mut rest = Bytes::from(content(size, 5));
        let expected = Digests::of(&[rest.clone()]);
        let mut ingest = store.begin(Declared { size: Some(size as u64), ..Declared::default() }, NO_LIMIT).unwrap();
        for cut in cuts.iter().cycle() {
            ingest.write(rest.split_to((*cut).min(rest.len()))).unwrap();
            if rest.is_empty() {
                break;
            }
        }
        let (image, _) = ingest.finish().unwrap();
        prop_assert_eq!((image.id(), image.md5(), image.sha1(), image.size()), (expected.id, expected.md5, expected.sha1, size as u64));
        prop_assert!(Digests::of(&[image.bytes()]) == expected);
    }
}
