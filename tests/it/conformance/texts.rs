//! Category 6: UTF-8.

use super::wire::Chop::{Frames, Octets, Whole};
use super::wire::Heard::{Close, Reply};
use super::wire::{Case, Heard, MORE, TEXT, case, frame, part, play};
use crate::support::Serve;

/// Bytes that are UTF-8, then a surrogate (which is not), then text.
const SPOILT: [&[u8]; 3] = [b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5", b"\xed\xa0\x80", b"edited"];
const GREEK: &[u8] = "Hello-µ@ßöäüàá-UTF-8!!".as_bytes();

fn judged(text: &[u8]) -> Heard {
    if std::str::from_utf8(text).is_ok() { Reply } else { Close(1007) }
}

/// Each octet in a frame of its own.
fn in_octets(text: &[u8]) -> Vec<Vec<u8>> {
    let last = text.len() - 1;
    let opcode = |at| if at == 0 { TEXT } else { MORE };
    let frames = text.iter().enumerate();
    frames.map(|(at, byte)| if at == last { frame(opcode(at), &[*byte]) } else { part(opcode(at), &[*byte]) }).collect()
}

#[tokio::test]
async fn text_in_pieces() {
    let serve = Serve::start(&[]).await;
    let (before, after) = GREEK.split_at(11);
    let spoilt = SPOILT.concat();
    play(
        serve.clients,
        vec![
            case("6.1.1", vec![frame(TEXT, b"")], Whole, &[Reply]),
            case("6.1.2", vec![part(TEXT, b""), part(MORE, b""), frame(MORE, b"")], Whole, &[Reply]),
            case("6.1.3", vec![part(TEXT, b""), part(MORE, b"middle"), frame(MORE, b"")], Whole, &[Reply]),
            case("6.2.1", vec![frame(TEXT, GREEK)], Whole, &[Reply]),
            case("6.2.2", vec![part(TEXT, before), frame(MORE, after)], Frames, &[Reply]),
            case("6.2.3", in_octets(GREEK), Frames, &[Reply]),
            case("6.2.4", in_octets(SPOILT[0]), Frames, &[Reply]),
            case("6.3.1", vec![frame(TEXT, &spoilt)], Whole, &[Close(1007)]),
            case("6.3.2", in_octets(&spoilt), Frames, &[Close(1007)]),
            // The last part is not sent: the second one shows that this is no text.
            case("6.4.1", vec![part(TEXT, SPOILT[0]), part(MORE, SPOILT[1])], Frames, &[Close(1007)]),
            case("6.4.2", vec![part(TEXT, SPOILT[0]), part(MORE, &SPOILT[1][..2])], Frames, &[Close(1007)]),
            case("6.4.3", vec![frame(TEXT, &spoilt)], Octets(11), &[Close(1007)]),
            case("6.4.4", vec![frame(TEXT, &spoilt)], Octets(1), &[Close(1007)]),
        ],
    )
    .await;
}

/// The sequences of Markus Kuhn's UTF-8 stress test, as that list has them. The standard library says what is UTF-8.
#[tokio::test]
async fn sequences() {
    let serve = Serve::start(&[]).await;
    let whole = SPOILT[0];
    let mut groups: Vec<(u32, Vec<Vec<u8>>)> = vec![
        // Text with what is odd and allowed; and every beginning of a word.
        (
            5,
            vec![b"Hello\x00World".to_vec(), b"\x7f\xc2\x80".to_vec(), GREEK.to_vec(), whole.to_vec(), whole.repeat(9)],
        ),
        (6, (1..=whole.len()).map(|len| whole[..len].to_vec()).collect()),
        // The first and the last sequence of each length.
        (7, vec![b"\x00".to_vec(), b"\xc2\x80".to_vec(), b"\xe0\xa0\x80".to_vec(), b"\xf0\x90\x80\x80".to_vec()]),
        (8, vec![b"\xf8\x88\x80\x80\x80".to_vec(), b"\xfc\x84\x80\x80\x80\x80".to_vec()]),
        (9, vec![b"\x7f".to_vec(), b"\xdf\xbf".to_vec(), b"\xef\xbf\xbf".to_vec(), b"\xf4\x8f\xbf\xbf".to_vec()]),
        (
            10,
            vec![b"\xf7\xbf\xbf\xbf".to_vec(), b"\xfb\xbf\xbf\xbf\xbf".to_vec(), b"\xfd\xbf\xbf\xbf\xbf\xbf".to_vec()],
        ),
        (
            11,
            vec![
                b"\xed\x9f\xbf".to_vec(),
                b"\xee\x80\x80".to_vec(),
                b"\xef\xbf\xbd".to_vec(),
                b"\xf4\x8f\xbf\xbf".to_vec(),
                b"\xf4\x90\x80\x80".to_vec(),
            ],
        ),
        // Continuation bytes that continue nothing; lead bytes that nothing continues.
        (12, [1, 2, 3, 4, 5, 6, 7].map(|len| [0x80, 0xBF].repeat(4)[..len].to_vec()).into()),
        (
            13,
            [0xC0..=0xDF, 0xE0..=0xEF, 0xF0..=0xF7, 0xF8..=0xFB, 0xFC..=0xFD]
                .map(|leads| leads.flat_map(|lead| [lead, b' ']).collect())
                .into(),
        ),
    ];
    let cut: [&[u8]; 10] = [
        b"\xc0",
        b"\xe0\x80",
        b"\xf0\x80\x80",
        b"\xf8\x80\x80\x80",
        b"\xfc\x80\x80\x80\x80",
        b"\xdf",
        b"\xef\xbf",
        b"\xf7\xbf\xbf",
        b"\xfb\xbf\xbf\xbf",
        b"\xfd\xbf\xbf\xbf\xbf",
    ];
    groups.push((14, cut.map(<[u8]>::to_vec).into()));
    groups.push((15, vec![cut.concat()]));
    groups.push((16, vec![b"\xfe".to_vec(), b"\xff".to_vec(), b"\xfe\xfe\xff\xff".to_vec()]));
    // The slash, the largest and the smallest character, written longer than need be.
    let overlong: [&[u8]; 15] = [
        b"\xc0\xaf",
        b"\xe0\x80\xaf",
        b"\xf0\x80\x80\xaf",
        b"\xf8\x80\x80\x80\xaf",
        b"\xfc\x80\x80\x80\x80\xaf",
        b"\xc1\xbf",
        b"\xe0\x9f\xbf",
        b"\xf0\x8f\xbf\xbf",
        b"\xf8\x87\xbf\xbf\xbf",
        b"\xfc\x83\xbf\xbf\xbf\xbf",
        b"\xc0\x80",
        b"\xe0\x80\x80",
        b"\xf0\x80\x80\x80",
        b"\xf8\x80\x80\x80\x80",
        b"\xfc\x80\x80\x80\x80\x80",
    ];
    for (group, five) in (17..).zip(overlong.chunks(5)) {
        groups.push((group, five.iter().map(|text| text.to_vec()).collect()));
    }
    // Surrogates, single and in pairs.
    let (high, low): ([&[u8]; 4], [&[u8]; 3]) = (
        [b"\xed\xa0\x80", b"\xed\xad\xbf", b"\xed\xae\x80", b"\xed\xaf\xbf"],
        [b"\xed\xb0\x80", b"\xed\xbe\x80", b"\xed\xbf\xbf"],
    );
    groups.push((20, high.iter().chain(&low).map(|text| text.to_vec()).collect()));
    groups.push((21, high.iter().flat_map(|high| low.iter().map(move |low| [*high, *low].concat())).collect()));
    // Characters that are none, and yet UTF-8: the last two of each plane; and some that programs stumble over.
    let last_two = (0..=16).flat_map(|plane| [plane << 16 | 0xFFFE, plane << 16 | 0xFFFF]);
    groups.push((22, last_two.map(|number| char::from_u32(number).unwrap().to_string().into_bytes()).collect()));
    let odd = ['\u{fff9}', '\u{fffa}', '\u{fffb}', '\u{fffc}', '\u{fffd}', '\u{feff}', '\u{202e}'];
    groups.push((23, odd.map(|odd| odd.to_string().into_bytes()).into()));
    let cases = groups.into_iter().flat_map(|(group, texts)| {
        let numbered = (1..).zip(texts);
        numbered.flat_map(move |(number, text)| both_ways(&format!("6.{group}.{number}"), &text))
    });
    play(serve.clients, cases.collect()).await;
}

/// In one frame, and each octet in a frame of its own.
fn both_ways(id: &str, text: &[u8]) -> [Case; 2] {
    let want = [judged(text)];
    [case(id, vec![frame(TEXT, text)], Whole, &want), case(format!("x{id}"), in_octets(text), Whole, &want)]
}
