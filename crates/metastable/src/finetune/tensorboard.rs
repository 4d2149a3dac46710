//! TensorBoard's event file: the numbers of metrics.jsonl, appended after every step, under the same names.
//!
//! An event file is a sequence of records (length, its masked CRC-32C, an `Event` in protocol buffers, its masked
//! CRC-32C). No crate that is kept up writes them, and one kind of event is forty lines.
//!
//! # References
//! `tensorflow/core/lib/io/record_writer.h`, `tensorflow/core/util/event.proto`,
//! `tensorflow/core/framework/summary.proto` \[code\].

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use super::progress::Metrics;
use crate::error::LabError;
use crate::run_dir::RunDir;

/// The file inside a run folder; TensorBoard looks for `tfevents` in names.
pub(super) const FILE: &str = "tensorboard/events.out.tfevents.1.metastable";

/// An event file that grows by one event a step.
pub(super) struct Events {
    path: PathBuf,
    file: File,
}

impl Events {
    /// Opens the events of a run that has made `step` steps: later ones, and what a kill left incomplete, are cut off.
    ///
    /// # Errors
    /// [`LabError::Write`].
    pub(super) fn open(folder: &mut RunDir, step: u64) -> Result<Self, LabError> {
        let mut file = folder.open_growing(FILE)?;
        let path = folder.path().join(FILE);
        let prepare = |file: &mut File| -> io::Result<()> {
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            let kept = intact(&bytes, step);
            file.set_len(kept as u64)?;
            file.seek(SeekFrom::End(0))?;
            if kept == 0 {
                file.write_all(&record(&version_event(now())))?;
            }
            Ok(())
        };
        match prepare(&mut file) {
            Ok(()) => Ok(Self { path, file }),
            Err(source) => Err(LabError::Write { file: path, source }),
        }
    }

    /// Appends the numbers of a step; TensorBoard shows them at once.
    ///
    /// # Errors
    /// [`LabError::Write`].
    pub(super) fn append(&mut self, metrics: &Metrics) -> Result<(), LabError> {
        let event = step_event(now(), metrics.step, &scalars(metrics));
        let write = |source| LabError::Write { file: self.path.clone(), source };
        self.file.write_all(&record(&event)).map_err(write)
    }
}

/// Seconds since 1970: TensorBoard's horizontal axis can be the hour. No result depends on it.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |past| past.as_secs_f64())
}

/// Every number of a line of metrics.jsonl by its name; those of a layer of the probe as `probe/<name>/layer_<index>`.
fn scalars(metrics: &Metrics) -> Vec<(String, f32)> {
    let line = serde_json::to_value(metrics).expect("numbers always serialise");
    let mut found = Vec::new();
    for (name, value) in line.as_object().into_iter().flatten().filter(|(name, _)| *name != "step") {
        found.extend(number(value).map(|x| (name.clone(), x)));
    }
    for layer in line["probe"]["layers"].as_array().into_iter().flatten() {
        let index = layer["index"].as_u64().unwrap_or_default();
        for (name, value) in layer.as_object().into_iter().flatten().filter(|(name, _)| *name != "index") {
            found.extend(number(value).map(|x| (format!("probe/{name}/layer_{index:02}"), x)));
        }
    }
    found
}

fn number(value: &Value) -> Option<f32> {
    match value {
        Value::Bool(flag) => Some(f32::from(u8::from(*flag))),
        other => other.as_f64().map(|x| x as f32),
    }
}

/// Keys of protocol buffers: (field << 3) | wire type.
const WALL_TIME: u8 = 1 << 3 | 1;
const STEP: u8 = 2 << 3;
const FILE_VERSION: u8 = 3 << 3 | 2;
const SUMMARY: u8 = 5 << 3 | 2;
const VALUE: u8 = 1 << 3 | 2;
const TAG: u8 = 1 << 3 | 2;
const SIMPLE_VALUE: u8 = 2 << 3 | 5;

/// The event that every file begins with.
fn version_event(time: f64) -> Vec<u8> {
    let mut event = vec![WALL_TIME];
    event.extend(time.to_le_bytes());
    field(&mut event, FILE_VERSION, b"brain.Event:2");
    event
}

fn step_event(time: f64, step: u64, scalars: &[(String, f32)]) -> Vec<u8> {
    let mut summary = Vec::new();
    for (name, x) in scalars {
        let mut value = Vec::new();
        field(&mut value, TAG, name.as_bytes());
        value.push(SIMPLE_VALUE);
        value.extend(x.to_le_bytes());
        field(&mut summary, VALUE, &value);
    }
    let mut event = vec![WALL_TIME];
    event.extend(time.to_le_bytes());
    event.push(STEP);
    varint(&mut event, step);
    field(&mut event, SUMMARY, &summary);
    event
}

fn field(into: &mut Vec<u8>, key: u8, content: &[u8]) {
    into.push(key);
    varint(into, content.len() as u64);
    into.extend(content);
}

fn varint(into: &mut Vec<u8>, mut x: u64) {
    while x >= 0x80 {
        // Seven bits a byte, lowest first.
        into.push((x & 0x7f) as u8 | 0x80);
        x >>= 7;
    }
    into.push(x as u8);
}

/// The step of an event that [`step_event`] wrote; 0 for others.
fn step_of(event: &[u8]) -> u64 {
    let Some((&STEP, digits)) = event.get(9..).and_then(|rest| rest.split_first()) else { return 0 };
    let end = digits.iter().position(|byte| byte & 0x80 == 0).unwrap_or_default();
    digits[..=end.min(digits.len().saturating_sub(1))]
        .iter()
        .rev()
        .fold(0, |step, byte| step << 7 | u64::from(byte & 0x7f))
}

/// One record of the file.
fn record(event: &[u8]) -> Vec<u8> {
    let length = (event.len() as u64).to_le_bytes();
    let parts = [&length[..], &masked(&length), event, &masked(event)];
    parts.concat()
}

/// How many bytes of a file are whole records of steps up to `last`.
fn intact(bytes: &[u8], last: u64) -> usize {
    let mut at = 0;
    while let Some(head) = bytes.get(at..at + 12) {
        let (length, sum) = head.split_at(8);
        let size = u64::from_le_bytes(length.try_into().expect("eight bytes"));
        let Some(end) = usize::try_from(size).ok().and_then(|size| (at + 12).checked_add(size)) else { break };
        let Some(after) = end.checked_add(4) else { break };
        let (Some(event), Some(event_sum)) = (bytes.get(at + 12..end), bytes.get(end..after)) else { break };
        if sum != masked(length) || event_sum != masked(event) || step_of(event) > last {
            break;
        }
        at = after;
    }
    at
}

/// The sum of a record: a CRC is turned and shifted, so that sums of data with sums inside stay good.
fn masked(bytes: &[u8]) -> [u8; 4] {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

/// CRC-32C (Castagnoli), byte by byte.
fn crc32c(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = table();
    !bytes.iter().fold(!0, |sum, byte| TABLE[usize::from(sum as u8 ^ byte)] ^ (sum >> 8))
}

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let mut sum = i as u32;
        let mut bit = 0;
        while bit < 8 {
            sum = if sum & 1 == 1 { 0x82f6_3b78 ^ (sum >> 1) } else { sum >> 1 };
            bit += 1;
        }
        table[i] = sum;
        i += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_agree_with_the_vectors_of_rfc_3720() {
        // RFC 3720, B.4.
        let rising: Vec<u8> = (0..32).collect();
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(&rising), 0x46dd_794e);
    }

    #[test]
    fn events_have_the_bytes_of_protocol_buffers() {
        let event = step_event(1.5, 300, &[("loss".into(), 0.25)]);
        let mut expected = vec![0x09, 0, 0, 0, 0, 0, 0, 0xf8, 0x3f, 0x10, 0xac, 0x02, 0x2a, 13, 0x0a, 11];
        expected.extend([0x0a, 4, b'l', b'o', b's', b's', 0x15, 0, 0, 0x80, 0x3e]);
        assert_eq!(event, expected);
        assert_eq!(step_of(&event), 300);
        assert_eq!(step_of(&version_event(1.0)), 0);
    }

    #[test]
    fn what_a_kill_left_and_later_steps_are_cut_off() {
        let version = record(&version_event(0.0));
        let steps: Vec<Vec<u8>> = (1..=3).map(|step| record(&step_event(0.0, step, &[]))).collect();
        let whole = [version.clone(), steps.concat()].concat();
        assert_eq!(intact(&whole, 3), whole.len());
        assert_eq!(intact(&whole, 2), whole.len() - steps[2].len());
        assert_eq!(intact(&whole, 0), version.len());
        for cut in 1..steps[2].len() {
            assert_eq!(intact(&whole[..whole.len() - cut], 3), whole.len() - steps[2].len(), "{cut}");
        }
        let mut damaged = whole.clone();
        *damaged.last_mut().unwrap() ^= 1;
        assert_eq!(intact(&damaged, 3), whole.len() - steps[2].len());
        assert_eq!(intact(&u64::MAX.to_le_bytes().repeat(3), 3), 0);
    }
}
