// A pause in which a worker hears its messages. A timer's would last 4 ms, as browsers have it where timers set timers.

const { port1, port2 } = new MessageChannel();
port1.start();

export const breath = () =>
  new Promise((resolve) => {
    port1.addEventListener("message", resolve, { once: true });
    port2.postMessage(undefined);
  });
