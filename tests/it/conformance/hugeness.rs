//! Category 9: large messages, messages in many pieces, many messages.

use super::wire::Chop::{Frames, Octets, Whole};
use super::wire::Heard::{Close, Reply};
use super::wire::{BINARY, Chop, Heard, MORE, TEXT, case, frame, part, play};
use crate::support::Serve;

const KIB: usize = 1024;

/// A message in frames of this many bytes.
fn pieces(opcode: u8, size: usize, of: usize) -> Vec<Vec<u8>> {
    let payload = vec![b'*'; size];
    let mut frames: Vec<Vec<u8>> = payload.chunks(of).map(|piece| part(MORE, piece)).collect();
    if let Some(first) = frames.first_mut() {
        first[0] |= opcode;
    }
    if let Some(last) = frames.last_mut() {
        last[0] |= 0x80;
    }
    frames
}

/// What a text of this size is answered with: a message has 256 KiB at most.
fn answer(size: usize) -> Heard {
    if size > 256 * KIB { Close(1009) } else { Reply }
}

#[tokio::test]
async fn large_messages() {
    let serve = Serve::start(&[]).await;
    let mut cases = Vec::new();
    let sizes = [64, 256, 1024, 4096, 8192, 16_384].map(|size| size * KIB);
    for (number, size) in (1..).zip(sizes) {
        cases.push(case(format!("9.1.{number}"), vec![frame(TEXT, &vec![b'*'; size])], Whole, &[answer(size)]));
        let binary = if size > 256 * KIB { Close(1009) } else { Close(1003) };
        cases.push(case(format!("9.2.{number}"), vec![frame(BINARY, &vec![0; size])], Whole, &[binary]));
    }
    // 4 MiB in frames of 64 bytes to 4 MiB; here of what may be taken, too.
    for (number, of) in (1..).zip([64, 256, KIB, 4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB, KIB * KIB, 4 * KIB * KIB]) {
        cases.push(case(format!("9.3.{number}"), pieces(TEXT, 4096 * KIB, of), Whole, &[Close(1009)]));
        cases.push(case(format!("9.4.{number}"), pieces(BINARY, 4096 * KIB, of), Whole, &[Close(1009)]));
        if 256 * KIB / of <= 1025 {
            cases.push(case(format!("x9.3.{number}"), pieces(TEXT, 256 * KIB, of), Whole, &[Reply]));
        }
    }
    for (number, octets) in (1..).zip([64, 128, 256, 512, 1024, 2048]) {
        let chop = Chop::Octets(octets);
        cases.push(case(format!("x9.5.{number}"), vec![frame(TEXT, &vec![b'*'; 256 * KIB])], chop, &[Reply]));
        cases.push(case(format!("9.5.{number}"), vec![frame(TEXT, &vec![b'*'; KIB * KIB])], chop, &[Close(1009)]));
        cases.push(case(format!("9.6.{number}"), vec![frame(BINARY, &vec![0; KIB * KIB])], chop, &[Close(1009)]));
    }
    play(serve.clients, cases).await;
}

#[tokio::test]
async fn many_messages() {
    let serve = Serve::start(&[]).await;
    let mut cases = Vec::new();
    for (number, size) in (1..).zip([0, 16, 64, 256, KIB, 4 * KIB]) {
        let messages = vec![frame(TEXT, &vec![b'*'; size]); 1000];
        cases.push(case(format!("9.7.{number}"), messages.clone(), Frames, &vec![Reply; 1000]));
        cases.push(case(format!("x9.7.{number}"), messages[..100].to_vec(), Octets(7), &vec![Reply; 100]));
        let binary = vec![frame(BINARY, &vec![0; size]); 1000];
        cases.push(case(format!("9.8.{number}"), binary, Frames, &[Close(1003)]));
    }
    play(serve.clients, cases).await;
}
