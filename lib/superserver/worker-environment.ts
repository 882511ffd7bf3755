/** The variable that tells a worker the number of its channel. */
export const WORKER = 'FDPASS_WORKER'

/** Whether this process was started as a worker of a superserver. */
export const isWorker: boolean = process.env[WORKER] !== undefined
