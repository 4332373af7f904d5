// Pictures from the camera: in a dialog where the page may use it, else by what the device itself offers.

const SIZE = { width: { ideal: 1280 }, height: { ideal: 960 }, facingMode: "environment" };
const TROUBLE = {
  NotAllowedError: "The browser does not let this page use the camera.",
  NotFoundError: "There is no camera here.",
  NotReadableError: "Another program is using the camera.",
};

export function setUpCamera(onFiles, say) {
  const dialog = document.getElementById("camera-dialog");
  const video = dialog.querySelector("video");
  const capture = document.getElementById("capture");
  const shoot = document.getElementById("shoot");
  let taken = 0;

  document.getElementById("camera").addEventListener("click", async () => {
    if (!navigator.mediaDevices) { // the page came over plain HTTP from another machine
      capture.click();
      return;
    }
    try {
      shoot.disabled = true; // until the camera shows something
      video.srcObject = await navigator.mediaDevices.getUserMedia({ video: SIZE });
      dialog.showModal();
    } catch (error) {
      say(TROUBLE[error.name] ?? "The camera cannot be used.");
    }
  });
  video.addEventListener("playing", () => { shoot.disabled = false; });
  shoot.addEventListener("click", () => {
    shoot.disabled = true; // one press, one picture
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
    canvas.getContext("2d").drawImage(video, 0, 0);
    canvas.toBlob((blob) => {
      taken += 1;
      onFiles([new File([blob], `camera-${taken}.jpg`, { type: blob.type })]);
      dialog.close();
    }, "image/jpeg", 0.95);
  });
  document.getElementById("camera-close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => {
    for (const track of video.srcObject?.getTracks() ?? []) track.stop();
    video.srcObject = null;
  });
  capture.addEventListener("change", () => {
    onFiles([...capture.files]);
    capture.value = "";
  });
}
