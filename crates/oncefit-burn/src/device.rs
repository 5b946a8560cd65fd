//! Devices by name.

use burn_tensor::Device;

use crate::error::{BurnError, Result};

/// The devices of this build, decided by its features.
pub const DEVICES: &[&str] = &[
    #[cfg(feature = "flex")]
    "flex",
    #[cfg(feature = "wgpu")]
    "wgpu",
    #[cfg(feature = "vulkan")]
    "vulkan",
    #[cfg(feature = "metal")]
    "metal",
    #[cfg(feature = "cuda")]
    "cuda",
    #[cfg(feature = "rocm")]
    "rocm",
];

/// The device called `name` (one of [`DEVICES`]), and what it is in words: adapter and driver where
/// the library tells them. A device of wgpu is opened once per process.
///
/// # Errors
/// If this build has no such device, or the machine has none.
pub fn open_device(name: &str) -> Result<(Device, String)> {
    match name {
        #[cfg(feature = "flex")]
        "flex" => Ok((Device::flex(), "Burn's CPU backend".into())),
        #[cfg(feature = "wgpu")]
        "wgpu" => open_wgpu(name, burn_tensor::wgpu::WgpuBackend::Auto),
        #[cfg(feature = "vulkan")]
        "vulkan" => open_wgpu(name, burn_tensor::wgpu::WgpuBackend::Vulkan),
        #[cfg(feature = "metal")]
        "metal" => open_wgpu(name, burn_tensor::wgpu::WgpuBackend::Metal),
        #[cfg(feature = "cuda")]
        "cuda" => {
            let device = Device::cuda(burn_tensor::DeviceIndex::Default);
            Ok((device, "CUDA, the first device".into()))
        }
        #[cfg(feature = "rocm")]
        "rocm" => {
            let device = Device::rocm(burn_tensor::DeviceIndex::Default);
            Ok((device, "ROCm, the first device".into()))
        }
        _ => Err(BurnError::Device {
            name: name.to_owned(),
            reason: format!(
                "this build has {}; other devices are features of the crate",
                DEVICES.join(", ")
            ),
        }),
    }
}

#[cfg(feature = "wgpu")]
fn open_wgpu(name: &str, api: burn_tensor::wgpu::WgpuBackend) -> Result<(Device, String)> {
    let options = Device::wgpu_options().graphics_api(api);
    let (device, setup) = options
        .init_with_setup()
        .map_err(|error| BurnError::Device {
            name: name.to_owned(),
            reason: format!("{error}; a machine without a GPU needs Mesa's software Vulkan (Debian: mesa-vulkan-drivers)"),
        })?;
    let adapter = setup.adapter.get_info();
    let words = format!(
        "{} over {:?}, {} {}",
        adapter.name, adapter.backend, adapter.driver, adapter.driver_info
    );
    Ok((device, words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_device_is_an_error_that_names_the_known_ones() {
        let error = open_device("abacus").unwrap_err().to_string();
        assert!(error.contains("`abacus`"), "{error}");
        assert!(DEVICES.iter().all(|name| error.contains(name)), "{error}");
    }
}
