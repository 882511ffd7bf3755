export { Channel, type ChannelOptions, type ChannelReply, type RequestOptions } from './channel.ts'
export type { ChannelMessage, ChannelRequest } from './message.ts'
