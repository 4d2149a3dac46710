//! Golden values as safetensors files hold them.

use safetensors::SafeTensors;

pub(crate) struct Golden {
    bytes: &'static [u8],
    file: SafeTensors<'static>,
}

impl Golden {
    pub(crate) fn of(bytes: &'static [u8]) -> Self {
        Self { bytes, file: SafeTensors::deserialize(bytes).unwrap() }
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.file.tensor(name).is_ok()
    }

    pub(crate) fn floats(&self, name: &str) -> Vec<f32> {
        let data = self.file.tensor(name).unwrap().data();
        data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    }

    pub(crate) fn doubles(&self, name: &str) -> Vec<f64> {
        let data = self.file.tensor(name).unwrap().data();
        data.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect()
    }

    pub(crate) fn integers(&self, name: &str) -> Vec<u32> {
        let data = self.file.tensor(name).unwrap().data();
        data.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as u32).collect()
    }

    pub(crate) fn text(&self, name: &str) -> String {
        let metadata = SafeTensors::read_metadata(self.bytes).unwrap().1;
        metadata.metadata().as_ref().unwrap()[name].clone()
    }
}
