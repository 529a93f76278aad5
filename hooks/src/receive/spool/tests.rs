use std::io::{BufRead as _, BufReader};
use std::net::IpAddr;
use std::process::{Command, Stdio};

use bugfeed_core::hooks::event::Trigger;
use bytes::Bytes;
use tempfile::TempDir;

use super::*;
use crate::receive::received::{Envelope, Failure, Proof, QuarantinedRequest, ReceivedRequest, RequestId, Share};

fn request(number: u32, body: Option<&[u8]>) -> Record {
    Record::Received { request: received(number, body) }
}

fn received(number: u32, body: Option<&[u8]>) -> ReceivedRequest {
    ReceivedRequest {
        envelope: envelope(number, body),
        trigger: Trigger::Live,
        replays: None,
        failure: None,
        items: Vec::new(),
        answered: Vec::new(),
    }
}

fn envelope(number: u32, body: Option<&[u8]>) -> Envelope {
    Envelope {
        id: RequestId(u128::from(number)),
        source: "plain".to_owned(),
        received_us: 5,
        address: IpAddr::from([127, 0, 0, 1]),
        key_id: None,
        path: "/hooks/plain".to_owned(),
        headers: Vec::new(),
        size: 7,
        body_hash: None,
        body: body.map(Bytes::copy_from_slice),
        status: 200,
    }
}

fn options(folder: &TempDir) -> SpoolOptions {
    SpoolOptions::new(folder.path())
}

/// Opens it, once an earlier one has let it go.
fn open(options: &SpoolOptions) -> (Spool, Scan) {
    loop {
        match Spool::open(options.clone()) {
            Err(OpenError::InUse(_)) => std::thread::yield_now(),
            opened => return opened.unwrap(),
        }
    }
}

/// All that is in it, oldest first, which is removed.
async fn drain(spool: &Spool) -> Vec<Record> {
    let mut all = Vec::new();
    while let Some(segment) = spool.oldest().await {
        let mut reader = segment.open().unwrap();
        loop {
            let (records, _) = reader.next_piece().unwrap();
            if records.is_empty() {
                break;
            }
            all.extend(records);
        }
        spool.remove(&segment).unwrap();
    }
    all
}

fn numbers(records: &[Record]) -> Vec<u128> {
    records.iter().map(|record| record.envelope().id.0).collect()
}

/// The only segment in the folder.
fn file(folder: &TempDir) -> PathBuf {
    let found = segments(folder.path()).unwrap();
    assert_eq!(found.len(), 1);
    found[0].1.clone()
}

#[tokio::test]
async fn records_come_back_as_they_were() {
    let folder = TempDir::new().unwrap();
    let (spool, scan) = open(&options(&folder));
    assert_eq!((scan, spool.is_empty(), spool.bytes()), (Scan::default(), true, 0));
    assert!(spool.oldest().await.is_none());
    let failure = Failure { error: "e".to_owned(), fix: "f".to_owned() };
    let proof = Proof { key: Some(crate::receive::identity::Sha256::of(b"k")), signature: Vec::new() };
    let quarantined = QuarantinedRequest {
        envelope: envelope(3, Some(b"{}")),
        share: Share::KnownSender,
        failure,
        proof: proof.clone(),
    };
    let records = [
        request(1, None),
        request(2, Some(b"")),
        Record::Quarantined { request: quarantined },
        Record::Unchecked { request: received(4, Some(&[255; 5000])), proof },
    ];
    for record in &records {
        spool.append(record, Room::All).await.unwrap();
    }
    spool.filled().await;
    assert_eq!(spool.records(), 4);
    assert_eq!(drain(&spool).await, records);
    assert_eq!((spool.records(), spool.bytes()), (0, 0));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "only the lock stays");
}

#[tokio::test]
async fn files_are_ended_at_their_size_and_freed_one_by_one() {
    let folder = TempDir::new().unwrap();
    let (spool, _) = open(&SpoolOptions { segment_bytes: 1000, ..options(&folder) });
    for number in 0..10 {
        spool.append(&request(number, Some(&[0; 600])), Room::All).await.unwrap();
    }
    let first = spool.oldest().await.unwrap();
    let before = spool.bytes();
    spool.remove(&first).unwrap();
    assert!(spool.bytes() < before && spool.records() < 10);
    let rest = drain(&spool).await;
    assert_eq!(numbers(&rest), (10 - rest.len() as u128..10).collect::<Vec<_>>());
}

#[tokio::test]
async fn many_at_once_are_all_there() {
    let folder = TempDir::new().unwrap();
    let (spool, _) = open(&SpoolOptions { segment_bytes: 5000, ..options(&folder) });
    let appends = (0..500).map(|number| {
        let spool = spool.clone();
        async move { spool.append(&request(number, Some(b"x")), Room::All).await.unwrap() }
    });
    futures::future::join_all(appends).await;
    let mut found = numbers(&drain(&spool).await);
    found.sort_unstable();
    assert_eq!(found, (0..500).collect::<Vec<_>>());
}

#[tokio::test]
async fn it_is_bounded_and_leaves_room_for_what_is_authentic() {
    let folder = TempDir::new().unwrap();
    let record = request(1, Some(&[0; 1000]));
    let length = record.encode().unwrap().len() as u64;
    let (spool, _) = open(&SpoolOptions { max_bytes: 8 * length, ..options(&folder) });
    let mut taken = Vec::new();
    for room in [Room::Quarter, Room::Half, Room::All] {
        let mut count = 0;
        while spool.append(&record, room).await.is_ok() {
            count += 1;
        }
        taken.push(count);
    }
    assert_eq!(taken, [2, 2, 4]);
    assert_eq!(spool.append(&record, Room::All).await, Err(SpoolError::Full));
    assert!(spool.is_full());
    drain(&spool).await;
    assert!(spool.append(&record, Room::Quarter).await.is_ok());
}

#[tokio::test]
async fn one_process_only() {
    let folder = TempDir::new().unwrap();
    let (spool, _) = open(&options(&folder));
    let error = Spool::open(options(&folder)).unwrap_err();
    assert!(matches!(error, OpenError::InUse(_)) && error.to_string().contains("--spool-dir"), "{error}");
    drop(spool);
    open(&options(&folder));
}

#[tokio::test]
async fn a_torn_end_is_cut_off_wherever_it_is_torn() {
    let folder = TempDir::new().unwrap();
    let (spool, _) = open(&options(&folder));
    for number in 0..3 {
        spool.append(&request(number, Some(b"body")), Room::All).await.unwrap();
    }
    drop(spool);
    drop(open(&options(&folder)));
    let whole = std::fs::read(file(&folder)).unwrap();
    let last = request(2, Some(b"body")).encode().unwrap().len();
    let path = file(&folder);
    for cut in 1..=last {
        for is_zeroed in [false, true].into_iter().take(if cut % 16 == 1 { 2 } else { 1 }) {
            // A file system may also have made the file longer and not yet written to it.
            let mut torn = whole[..whole.len() - cut].to_vec();
            torn.resize(if is_zeroed { whole.len() } else { torn.len() }, 0);
            std::fs::write(&path, &torn).unwrap();
            let (segment, scan) = segment::scan(&path, 1).unwrap();
            assert_eq!((scan.records, scan.damaged), (2, 0), "{cut}");
            assert_eq!(scan.torn_bytes, (torn.len() - (whole.len() - last)) as u64);
            assert_eq!(segment.bytes, (whole.len() - last) as u64);
            assert_eq!(segment::scan(&path, 1).unwrap().1.torn_bytes, 0, "it was cut");
        }
    }
    let (spool, scan) = open(&options(&folder));
    assert_eq!(scan.records, 2);
    spool.append(&request(9, None), Room::All).await.unwrap();
    assert_eq!(numbers(&drain(&spool).await), [0, 1, 9]);
}

#[tokio::test]
async fn a_damaged_record_is_passed_over() {
    let folder = TempDir::new().unwrap();
    let (spool, _) = open(&options(&folder));
    for number in 0..3 {
        spool.append(&request(number, Some(b"body")), Room::All).await.unwrap();
    }
    drop(spool);
    drop(open(&options(&folder)));
    let path = file(&folder);
    let mut bytes = std::fs::read(&path).unwrap();
    let at = request(0, Some(b"body")).encode().unwrap().len() + 100;
    bytes[at] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let (spool, scan) = open(&options(&folder));
    assert_eq!(scan, Scan { records: 2, torn_bytes: 0, damaged: 1 });
    assert_eq!(numbers(&drain(&spool).await), [0, 2]);
}

#[tokio::test]
async fn an_end_that_is_damaged_and_not_torn_is_kept_for_people() {
    let folder = TempDir::new().unwrap();
    let (spool, _) = open(&options(&folder));
    for number in 0..3 {
        spool.append(&request(number, Some(b"body")), Room::All).await.unwrap();
    }
    drop(spool);
    drop(open(&options(&folder)));
    let path = file(&folder);
    let whole = std::fs::read(&path).unwrap();
    // The frame of the second record, so that it is not known where the third one begins.
    let at = request(0, Some(b"body")).encode().unwrap().len();
    let mut damaged = whole.clone();
    damaged[at] ^= 1;
    std::fs::write(&path, &damaged).unwrap();
    let (spool, scan) = open(&options(&folder));
    assert_eq!(scan, Scan { records: 1, torn_bytes: 0, damaged: 1 });
    assert_eq!(std::fs::read(path.with_extension("damaged")).unwrap(), damaged[at..]);
    assert_eq!(numbers(&drain(&spool).await), [0]);
    // What looks like a record in the body of a torn one is none, and nothing of it is taken.
    let inner = request(7, Some(b"forged")).encode().unwrap();
    let outer = request(8, Some(&inner)).encode().unwrap();
    std::fs::write(folder.path().join("spool-0000000000000099.log"), &outer[..outer.len() - 1]).unwrap();
    drop(spool);
    let (spool, scan) = open(&options(&folder));
    assert_eq!(scan.records, 0);
    assert!(spool.is_empty());
}

#[tokio::test]
async fn a_failed_write_is_told_and_costs_nothing_else() {
    let folder = TempDir::new().unwrap();
    let inner = folder.path().join("spool");
    let (spool, _) = open(&SpoolOptions::new(&inner));
    std::fs::rename(&inner, folder.path().join("away")).unwrap();
    let error = spool.append(&request(1, None), Room::All).await.unwrap_err();
    assert!(matches!(error, SpoolError::Failed(_)), "{error}");
    assert_eq!((spool.bytes(), spool.is_empty()), (0, true));
    std::fs::rename(folder.path().join("away"), &inner).unwrap();
    spool.append(&request(2, None), Room::All).await.unwrap();
    assert_eq!(numbers(&drain(&spool).await), [2]);
}

/// A disk that knows how much of each file it has made durable, and can be told to fail.
#[derive(Clone, Default)]
struct Watched {
    durable: Arc<Mutex<std::collections::BTreeMap<u64, u64>>>,
    folder_is_durable: Arc<AtomicU64>,
    fails: Arc<std::sync::atomic::AtomicBool>,
}

impl Disk for Watched {
    fn flush(&mut self, file: &File) -> io::Result<()> {
        use std::os::unix::fs::MetadataExt as _;
        if self.fails.load(Ordering::SeqCst) {
            return Err(io::Error::other("the disk is broken"));
        }
        file.sync_data()?;
        let found = file.metadata()?;
        self.durable.lock().unwrap().insert(found.ino(), found.len());
        Ok(())
    }

    fn flush_folder(&mut self, _: &Path) -> io::Result<()> {
        self.folder_is_durable.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

#[tokio::test]
async fn whoever_is_answered_is_on_the_disk() {
    use std::os::unix::fs::MetadataExt as _;
    let folder = TempDir::new().unwrap();
    let disk = Watched::default();
    let options = SpoolOptions { segment_bytes: 3000, ..options(&folder) };
    let (spool, _) = Spool::open_on(options, Box::new(disk.clone())).unwrap();
    for number in 0..10 {
        spool.append(&request(number, Some(&[0; 600])), Room::All).await.unwrap();
        // A power cut now would leave of each file what was flushed.
        let files = segments(folder.path()).unwrap();
        for (_, path) in &files {
            let found = std::fs::metadata(path).unwrap();
            let durable = disk.durable.lock().unwrap().get(&found.ino()).copied();
            assert_eq!(durable, Some(found.len()), "record {number}, {}", path.display());
        }
        assert_eq!(
            disk.folder_is_durable.load(Ordering::SeqCst),
            files.len() as u64,
            "names of files are flushed, too"
        );
    }
}

#[tokio::test]
async fn a_flush_that_fails_is_told_and_its_record_never_replayed() {
    let folder = TempDir::new().unwrap();
    let disk = Watched::default();
    let (spool, _) = Spool::open_on(options(&folder), Box::new(disk.clone())).unwrap();
    spool.append(&request(1, None), Room::All).await.unwrap();
    disk.fails.store(true, Ordering::SeqCst);
    let error = spool.append(&request(2, None), Room::All).await.unwrap_err();
    assert_eq!(error, SpoolError::Failed("the disk is broken".to_owned()));
    disk.fails.store(false, Ordering::SeqCst);
    spool.append(&request(3, None), Room::All).await.unwrap();
    assert_eq!(spool.records(), 2);
    assert_eq!(numbers(&drain(&spool).await), [1, 3]);
}

const CHILD: &str = "BUGFEED_TEST_SPOOL";

/// Not a test by itself: the process that is killed.
#[tokio::test]
#[ignore = "the process that another test starts and kills"]
async fn child_that_writes_until_it_is_killed() {
    let Some(folder) = std::env::var_os(CHILD) else { return };
    let (spool, _) = Spool::open(SpoolOptions { segment_bytes: 20_000, ..SpoolOptions::new(folder) }).unwrap();
    let writers = (0..4).map(|writer| {
        let spool = spool.clone();
        async move {
            for number in 0..1_000_000 {
                let id = writer * 1_000_000 + number;
                spool.append(&request(id, Some(&vec![7; (id % 3000) as usize])), Room::All).await.unwrap();
                // One line in one write, so that lines are whole.
                std::io::Write::write_all(&mut std::io::stdout(), format!("\nspooled {id}\n").as_bytes()).unwrap();
            }
        }
    });
    futures::future::join_all(writers).await;
}

#[tokio::test]
async fn kill_9_loses_nothing_that_was_answered() {
    for answered in [1, 7, 40, 150] {
        let folder = TempDir::new().unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "receive::spool::tests::child_that_writes_until_it_is_killed",
                "--ignored",
                "--nocapture",
            ])
            .env(CHILD, folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let mut told: Vec<u128> = Vec::new();
        let mut id = |line: String| line.strip_prefix("spooled ").map(|id| told.push(id.parse().unwrap())).is_some();
        let mut count = 0;
        while count < answered {
            count += usize::from(id(lines.next().expect("the child ended by itself")));
        }
        child.kill().unwrap();
        for line in lines {
            id(line);
        }
        child.wait().unwrap();
        let (spool, scan) = open(&options(&folder));
        let found = numbers(&drain(&spool).await);
        assert_eq!((scan.records, scan.damaged), (found.len() as u64, 0));
        for id in told {
            assert!(found.contains(&id), "{id} was answered, and is lost");
        }
        for writer in 0..4 {
            let of_writer = found.iter().filter(|id| **id / 1_000_000 == writer).map(|id| id % 1_000_000);
            assert!(of_writer.enumerate().all(|(place, number)| place as u128 == number), "the order is kept");
        }
    }
}
