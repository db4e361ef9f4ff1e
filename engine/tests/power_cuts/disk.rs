//! A disk in memory, driven by a record of what a process did (`recorder.c`), and the folders that a power cut could leave of it.
//!
//! What is assumed of a disk and its file system:
//! - A sync of a file that returned without an error makes durable what was in the file when the sync was asked for: content and
//!   length. **It does not make the file's name durable** (ext4 and its like do more).
//! - A sync of a folder makes durable the names that were in it. Without one, any number of the folder's changes of names since
//!   may be there, in their order; what becomes of one folder says nothing of another. Moving a file from one folder to another is
//!   two changes.
//! - Of what was written to a file since its last sync, each block may be there or not, as it was at any moment since: blocks of
//!   4,096 bytes, or, torn, of 512. A block is whole: what wasn't written in it isn't harmed.
//! - A file's length may be any that it had since its last sync. What it has beyond what was written is zeros or garbage.
//! - A sync that failed has lost any of these blocks, or none, for good: the system takes them for written, so **a later sync that
//!   succeeds doesn't bring them back**, unless they are written again. Until a power cut they are read as they were written.
//! - Nothing that is durable is harmed by itself: a disk that rots is another test's matter (`store/sqlite/tests/damage.rs`).

use crate::random::Random;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What the system writes back at once, and so what a failed sync loses.
const PAGE: usize = 4096;
const SECTOR: usize = 512;

/// Everything that was recorded, in order.
#[derive(Debug)]
pub(crate) struct Record {
    bytes: Vec<u8>,
    pub(crate) operations: Vec<Operation>,
}

#[derive(Clone, Debug)]
pub(crate) struct Operation {
    pub(crate) kind: Kind,
    inode: u64,
    at: u64,
    payload: Range<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Create,
    MakeFolder,
    Write,
    Truncate,
    SyncBegin,
    SyncEnd,
    SyncFailed,
    Rename,
    Unlink,
    /// A call was made to fail.
    Fault,
}

impl Record {
    pub(crate) fn read(path: &Path) -> Self {
        const KINDS: [Kind; 10] = [
            Kind::Create,
            Kind::MakeFolder,
            Kind::Write,
            Kind::Truncate,
            Kind::SyncBegin,
            Kind::SyncEnd,
            Kind::SyncFailed,
            Kind::Rename,
            Kind::Unlink,
            Kind::Fault,
        ];
        let bytes = fs::read(path).expect("the record is there");
        let word = |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap());
        let half = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        let (mut operations, mut at) = (Vec::new(), 0);
        while at < bytes.len() {
            let payload = at + 24..at + 24 + half(at + 4);
            operations.push(Operation {
                kind: KINDS[half(at) - 1],
                inode: word(at + 8),
                at: word(at + 16),
                payload: payload.clone(),
            });
            at = payload.end;
        }
        Self { bytes, operations }
    }

    fn payload(&self, operation: &Operation) -> &[u8] {
        &self.bytes[operation.payload.clone()]
    }

    fn text(&self, operation: &Operation) -> &str {
        std::str::from_utf8(self.payload(operation)).expect("names are text")
    }
}

/// The folder as it is in the cache, with what of it is durable.
#[derive(Debug)]
pub(crate) struct Disk {
    /// As the recorded process called it.
    root_path: String,
    root: usize,
    nodes: Vec<Node>,
    /// Numbers of inodes are used again; this is whose they are now.
    inodes: HashMap<u64, usize>,
    /// What was asked for and hasn't returned: where it was asked for.
    syncs: HashMap<(u64, u64), usize>,
}

#[derive(Debug)]
enum Node {
    File(File),
    Folder(Folder),
}

#[derive(Debug, Default)]
struct Folder {
    now: BTreeMap<String, usize>,
    durable: BTreeMap<String, usize>,
    pending: Vec<(usize, NameChange)>,
}

#[derive(Clone, Debug)]
enum NameChange {
    Put(String, usize),
    Remove(String),
    Rename(String, String, usize),
}

#[derive(Debug, Default)]
struct File {
    /// As of the last sync, what was lost included.
    synced: Vec<u8>,
    /// The pages that a failed sync lost, as they lie on the disk.
    lost: BTreeMap<usize, Vec<u8>>,
    pending: Vec<(usize, Change)>,
}

#[derive(Clone, Debug)]
enum Change {
    /// Where in the file, and what of the record.
    Write(usize, Range<usize>),
    Truncate(usize),
}

impl Disk {
    /// A folder that lies there since long.
    pub(crate) fn of(root: &Path) -> Self {
        let root_path = root.to_str().expect("a temporary folder's name is text").to_owned();
        let mut disk = Self { root_path, root: 0, nodes: Vec::new(), inodes: HashMap::new(), syncs: HashMap::new() };
        disk.root = disk.take_in(root);
        disk
    }

    fn take_in(&mut self, path: &Path) -> usize {
        let metadata = fs::metadata(path).unwrap();
        let node = if metadata.is_dir() {
            let entries = fs::read_dir(path).unwrap().map(|entry| {
                let entry = entry.unwrap();
                (entry.file_name().into_string().unwrap(), self.take_in(&entry.path()))
            });
            let now: BTreeMap<_, _> = entries.collect();
            Node::Folder(Folder { durable: now.clone(), now, pending: Vec::new() })
        } else {
            Node::File(File { synced: fs::read(path).unwrap(), ..File::default() })
        };
        self.add(metadata.ino(), node)
    }

    fn add(&mut self, inode: u64, node: Node) -> usize {
        self.nodes.push(node);
        self.inodes.insert(inode, self.nodes.len() - 1);
        self.nodes.len() - 1
    }

    /// Does what was recorded. `index` is its place in the record. Returns what was written to the end of the file `at`.
    pub(crate) fn apply<'a>(&mut self, index: usize, record: &'a Record, random: &mut Random, at: &str) -> Option<&'a str> {
        let operation = &record.operations[index];
        let file = |disk: &Self| disk.inodes.get(&operation.inode).copied();
        match operation.kind {
            Kind::Create | Kind::MakeFolder => {
                let folder = operation.kind == Kind::MakeFolder;
                let node = if folder { Node::Folder(Folder::default()) } else { Node::File(File::default()) };
                let node = self.add(operation.inode, node);
                let (parent, name) = self.place(record.text(operation));
                parent.change(index, NameChange::Put(name, node));
            }
            Kind::Write => {
                if let Some(node) = file(self) {
                    let change = Change::Write(operation.at as usize, operation.payload.clone());
                    self.file(node).pending.push((index, change));
                    if self.find(at) == Some(node) {
                        return Some(record.text(operation));
                    }
                }
            }
            Kind::Truncate => {
                if let Some(node) = file(self) {
                    self.file(node).pending.push((index, Change::Truncate(operation.at as usize)));
                }
            }
            Kind::SyncBegin => _ = self.syncs.insert((operation.inode, operation.at), index),
            Kind::SyncEnd | Kind::SyncFailed => {
                let begun = self.syncs.remove(&(operation.inode, operation.at)).expect("a sync that ends has begun");
                if let Some(node) = file(self) {
                    match &mut self.nodes[node] {
                        Node::Folder(folder) if operation.kind == Kind::SyncEnd => folder.sync(begun),
                        Node::Folder(_) => {}
                        Node::File(file) if operation.kind == Kind::SyncEnd => file.sync(begun, record),
                        Node::File(file) => file.lose(begun, record, random),
                    }
                }
            }
            Kind::Rename => {
                let (from, to) = record.text(operation).split_once('\0').expect("two names");
                let node = self.find(from).expect("what is renamed is there");
                let (source, from_name) = self.place(from);
                let same_folder = Path::new(from).parent() == Path::new(to).parent();
                if same_folder {
                    let to_name = to.rsplit('/').next().unwrap().to_owned();
                    source.change(index, NameChange::Rename(from_name, to_name, node));
                } else {
                    source.change(index, NameChange::Remove(from_name));
                    let (target, to_name) = self.place(to);
                    target.change(index, NameChange::Put(to_name, node));
                }
            }
            Kind::Unlink => {
                let (parent, name) = self.place(record.text(operation));
                parent.change(index, NameChange::Remove(name));
            }
            // What it changed nevertheless, a half of a write, has an entry of its own.
            Kind::Fault => {}
        }
        None
    }

    fn file(&mut self, node: usize) -> &mut File {
        match &mut self.nodes[node] {
            Node::File(file) => file,
            Node::Folder(_) => panic!("a folder is not written to"),
        }
    }

    fn find(&self, path: &str) -> Option<usize> {
        let below = path.strip_prefix(self.root_path.as_str()).expect("what is recorded lies below the folder");
        let mut node = self.root;
        for name in below.split('/').filter(|name| !name.is_empty()) {
            let Node::Folder(folder) = &self.nodes[node] else { return None };
            node = *folder.now.get(name)?;
        }
        Some(node)
    }

    /// The folder that a path lies in, and its name there.
    fn place(&mut self, path: &str) -> (&mut Folder, String) {
        let (parent, name) = path.rsplit_once('/').expect("paths are absolute");
        let parent = self.find(parent).expect("the folder is there");
        match &mut self.nodes[parent] {
            Node::Folder(folder) => (folder, name.to_owned()),
            Node::File(_) => panic!("{path} lies in a folder"),
        }
    }

    /// Writes what a power cut now could leave to `target`, which is empty.
    pub(crate) fn cut(&self, target: &Path, record: &Record, random: &mut Random) {
        let mood = Mood::any(random);
        self.lay_out(self.root, target, record, &mut |pending| mood.of_one(pending, random));
    }

    /// Panics where a folder isn't what the record says: then something went past the recorder.
    pub(crate) fn compare(&self, record: &Record) {
        let all = tempfile::tempdir_in(crate::scratch()).unwrap();
        self.lay_out(self.root, all.path(), record, &mut |_| Kept { mood: Mood::Cache, random: Random::new(0) });
        compare_folders(all.path(), Path::new(&self.root_path));
    }

    fn lay_out(&self, node: usize, target: &Path, record: &Record, choose: &mut dyn FnMut(bool) -> Kept) {
        match &self.nodes[node] {
            Node::Folder(folder) => {
                if !target.is_dir() {
                    fs::create_dir(target).unwrap();
                }
                for (name, entry) in folder.names(choose(!folder.pending.is_empty())) {
                    self.lay_out(entry, &target.join(name), record, choose);
                }
            }
            Node::File(file) => {
                let kept = choose(!file.pending.is_empty());
                let mut content = file.content(record, kept);
                if is_shared_memory(target) {
                    // Written through a map, so nothing is known of it.
                    content.fill(0xA5);
                }
                fs::write(target, content).unwrap();
            }
        }
    }
}

/// How much of what isn't durable is there after all.
#[derive(Clone, Copy, Debug)]
enum Mood {
    /// What a process reads, rather than what is left of it.
    Cache,
    Nothing,
    All,
    /// Of each file something else.
    Mixed,
    /// Each block by itself.
    Blocks {
        size: usize,
    },
    /// The oldest changes.
    First,
}

struct Kept {
    mood: Mood,
    random: Random,
}

impl Mood {
    fn any(random: &mut Random) -> Self {
        match random.below(8) {
            0 => Self::Nothing,
            1 => Self::All,
            2 => Self::First,
            3 => Self::Blocks { size: if random.one_in(2) { SECTOR } else { PAGE } },
            _ => Self::Mixed,
        }
    }

    fn of_one(self, pending: bool, random: &mut Random) -> Kept {
        let mut mood = if pending { self } else { Self::Nothing };
        while let Self::Mixed = mood {
            mood = Self::any(random);
        }
        Kept { mood, random: random.fork() }
    }
}

impl Folder {
    fn change(&mut self, index: usize, change: NameChange) {
        change.do_to(&mut self.now);
        self.pending.push((index, change));
    }

    fn sync(&mut self, begun: usize) {
        let later = self.pending.partition_point(|(index, _)| *index < begun);
        for (_, change) in self.pending.drain(..later) {
            change.do_to(&mut self.durable);
        }
    }

    fn names(&self, mut kept: Kept) -> BTreeMap<String, usize> {
        let count = match kept.mood {
            Mood::Nothing => 0,
            Mood::Cache | Mood::All => self.pending.len(),
            _ => kept.random.below(self.pending.len() + 1),
        };
        let mut names = self.durable.clone();
        self.pending[..count].iter().for_each(|(_, change)| change.do_to(&mut names));
        names
    }
}

impl NameChange {
    fn do_to(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            Self::Put(name, node) => _ = names.insert(name.clone(), *node),
            Self::Remove(name) => _ = names.remove(name),
            Self::Rename(from, to, node) => {
                names.remove(from);
                names.insert(to.clone(), *node);
            }
        }
    }
}

impl File {
    fn sync(&mut self, begun: usize, record: &Record) {
        for page in self.settle(begun, record) {
            self.lost.remove(&page);
        }
        self.lost.retain(|page, _| page * PAGE < self.synced.len());
    }

    fn lose(&mut self, begun: usize, record: &Record, random: &mut Random) {
        let before = self.synced.clone();
        for page in self.settle(begun, record) {
            let stale = self.lost.remove(&page).unwrap_or_else(|| block(&before, page, PAGE));
            if random.one_in(2) {
                self.lost.insert(page, stale);
            }
        }
    }

    /// Takes what was pending into `synced`; returns the pages that it touched.
    fn settle(&mut self, begun: usize, record: &Record) -> BTreeSet<usize> {
        let later = self.pending.partition_point(|(index, _)| *index < begun);
        let mut touched = BTreeSet::new();
        for (_, change) in self.pending.drain(..later) {
            change.do_to(&mut self.synced, record);
            if let Change::Write(at, bytes) = change {
                touched.extend(at / PAGE..(at + bytes.len()).div_ceil(PAGE));
            }
        }
        touched
    }

    fn content(&self, record: &Record, mut kept: Kept) -> Vec<u8> {
        let mut content = self.synced.clone();
        if let Mood::Cache = kept.mood {
            self.pending.iter().for_each(|(_, change)| change.do_to(&mut content, record));
            return content;
        }
        for (page, stale) in &self.lost {
            overlay(&mut content, page * PAGE, stale);
        }
        let count = match kept.mood {
            Mood::Nothing => return content,
            Mood::First => kept.random.below(self.pending.len() + 1),
            _ => self.pending.len(),
        };
        let changes = self.pending[..count].iter().map(|(_, change)| change).collect();
        match kept.mood {
            Mood::Blocks { size } => self.with_blocks(content, changes, size, record, Some(&mut kept.random)),
            _ => self.with_blocks(content, changes, PAGE, record, None),
        }
    }

    /// `content`, where each block that `changes` touch is as it was after any number of them; without `random`, after all. A block that
    /// is written again is written whole, with what was lost in it.
    fn with_blocks(
        &self,
        mut content: Vec<u8>,
        changes: Vec<&Change>,
        size: usize,
        record: &Record,
        mut random: Option<&mut Random>,
    ) -> Vec<u8> {
        let mut lengths = vec![self.synced.len()];
        let mut touched: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (number, change) in changes.iter().enumerate() {
            let length = lengths[number];
            let (blocks, length) = match change {
                Change::Write(at, bytes) => (at / size..(at + bytes.len()).div_ceil(size), length.max(at + bytes.len())),
                Change::Truncate(to) => (to / size..length.max(*to).div_ceil(size), *to),
            };
            blocks.for_each(|block| touched.entry(block).or_default().push(number));
            lengths.push(length);
        }
        let mut choose = |count: usize| random.as_deref_mut().map_or(count, |random| random.below(count + 1));
        for (number, changes_of_block) in touched {
            let count = choose(changes_of_block.len());
            if count == 0 {
                continue;
            }
            let mut bytes = block(&self.synced, number, size);
            for change in &changes_of_block[..count] {
                changes[*change].do_to_block(&mut bytes, number * size, record);
            }
            overlay_growing(&mut content, number * size, &bytes);
        }
        let length = lengths[choose(lengths.len() - 1)];
        let garbage = random.is_some_and(|random| random.one_in(4));
        content.resize(length, if garbage { 0xE5 } else { 0 });
        content
    }
}

impl Change {
    fn do_to(&self, content: &mut Vec<u8>, record: &Record) {
        match self {
            Self::Write(at, bytes) => overlay_growing(content, *at, &record.bytes[bytes.clone()]),
            Self::Truncate(length) => content.resize(*length, 0),
        }
    }

    /// The same to one block of the file, which begins at `begin`.
    fn do_to_block(&self, block: &mut [u8], begin: usize, record: &Record) {
        match self {
            Self::Write(at, bytes) => {
                let from = (*at).max(begin);
                let to = (at + bytes.len()).min(begin + block.len());
                if from < to {
                    let source = &record.bytes[bytes.clone()][from - at..to - at];
                    block[from - begin..to - begin].copy_from_slice(source);
                }
            }
            Self::Truncate(length) => {
                let from = length.saturating_sub(begin).min(block.len());
                block[from..].fill(0);
            }
        }
    }
}

/// A block of a file, filled up with zeros.
fn block(content: &[u8], number: usize, size: usize) -> Vec<u8> {
    let begin = (number * size).min(content.len());
    let end = (begin + size).min(content.len());
    let mut bytes = content[begin..end].to_vec();
    bytes.resize(size, 0);
    bytes
}

/// As far as the content goes.
fn overlay(content: &mut [u8], at: usize, bytes: &[u8]) {
    let end = (at + bytes.len()).min(content.len());
    if at < end {
        content[at..end].copy_from_slice(&bytes[..end - at]);
    }
}

fn overlay_growing(content: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if content.len() < at + bytes.len() {
        content.resize(at + bytes.len(), 0);
    }
    overlay(content, at, bytes);
}

fn is_shared_memory(path: &Path) -> bool {
    path.to_str().is_some_and(|path| path.ends_with("-shm"))
}

fn compare_folders(expected: &Path, got: &Path) {
    let names = |folder: &Path| -> BTreeSet<_> { fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect() };
    assert_eq!(names(expected), names(got), "the recorder has missed a name in {}", got.display());
    for name in names(expected) {
        let (expected, got) = (expected.join(&name), got.join(&name));
        if expected.is_dir() {
            compare_folders(&expected, &got);
        } else if !is_shared_memory(&got) {
            assert!(
                fs::read(&expected).unwrap() == fs::read(&got).unwrap(),
                "the recorder has missed a change of {}",
                got.display()
            );
        }
    }
}
