/** The environment variable with the descriptor number of a worker's channel. */
export const WORKER = 'FDPASS_WORKER'

/** Whether this process was started as a worker of a superserver. */
export const isWorker: boolean = process.env[WORKER] !== undefined
