// What a kernel relies on of a tensor, asked of torch itself for many tensors in one call.
//
// The functions are torch's and Python's own, which src/aida/backends/tensors.py finds where they are loaded, so that
// this library needs no header of either and serves every version of both.
#pragma once
#include <cstdint>

struct TensorApi {
  // Of torch's stable C interface.
  int32_t (*data_ptr)(void*, void**);
  int32_t (*storage_size)(void*, int64_t*);
  int32_t (*storage_offset)(void*, int64_t*);
  int32_t (*dim)(void*, int64_t*);
  int32_t (*sizes)(void*, int64_t**);
  int32_t (*strides)(void*, int64_t**);
  int32_t (*dtype)(void*, int32_t*);
  int32_t (*layout)(void*, int32_t*);
  int32_t (*device_type)(void*, int32_t*);
  int32_t (*device_index)(void*, int32_t*);
  // Of torch's C++ interface.
  bool (*is_neg)(const void*);
  void (*bump_version)(const void*);
  // PyList_GetItem, PyList_Size and PyDict_GetItemWithError.
  char* (*item)(void*, intptr_t);
  intptr_t (*size)(void*);
  char* (*value)(void*, void*);
  int64_t strided;           // the layout whose tensors have memory and strides
  int64_t type_at, impl_at;  // where a tensor of Python has its type and its TensorImpl, whose place is a tensor here
  const void* plain[2];      // the types whose tensors have memory of their own
};

enum { NO_ROOM = -1, NO_ANSWER = -2, NOT_PLAIN = -3 };

inline const void* at(const char* object, int64_t place) { return *reinterpret_cast<void* const*>(object + place); }

// Of a tensor: its address, and in `facts` five numbers, its sizes and its strides; the first two, the object and its
// address, are 0 if it moves. Returns how many facts there are, or what is above.
inline int64_t describe(const TensorApi& api, char* object, bool moves, int64_t& at_address, int64_t* facts,
                        int64_t room) {
  const void* type = object ? at(object, api.type_at) : nullptr;
  if (type != api.plain[0] && type != api.plain[1]) return NOT_PLAIN;
  void* tensor = object + api.impl_at;
  int32_t dtype, layout, device_type, device_index;
  int64_t size = 0, offset = 0, dim, *sizes = nullptr, *strides = nullptr;
  void* address = nullptr;
  if (api.dtype(tensor, &dtype) || api.layout(tensor, &layout) || api.device_type(tensor, &device_type) ||
      api.device_index(tensor, &device_index) || api.dim(tensor, &dim))
    return NO_ANSWER;
  const int64_t count = 5 + 2 * dim;
  if (count > room) return NO_ROOM;
  const bool strided = layout == api.strided;
  if (strided && (api.data_ptr(tensor, &address) || api.storage_size(tensor, &size) ||
                  api.storage_offset(tensor, &offset) || api.sizes(tensor, &sizes) || api.strides(tensor, &strides)))
    return NO_ANSWER;
  at_address = reinterpret_cast<int64_t>(address);
  int64_t kind = 0;  // eight bits are what torch has for each of these, but for the number of dimensions
  for (int64_t x : {dim, int64_t(dtype), int64_t(layout), int64_t(device_type), int64_t(device_index)})
    kind = kind << 8 | (x & 0xff);
  kind = kind << 2 | (address == nullptr) << 1 | api.is_neg(tensor);
  facts[0] = moves ? 0 : reinterpret_cast<int64_t>(object), facts[1] = moves ? 0 : at_address;
  facts[2] = kind, facts[3] = size, facts[4] = offset;
  for (int64_t d = 0; d < dim; d++) {
    facts[5 + d] = strided ? sizes[d] : 0;
    facts[5 + dim + d] = strided ? strides[d] : 0;
  }
  return count;
}

// Of each tensor of a list, then of each dict of a list under each of the keys, all facts one tensor after the other;
// those from place `moving` to before `still` move.
inline int64_t describe(const TensorApi& api, void* list, void* dicts, void* keys, int64_t moving, int64_t still,
                        int64_t* addresses, int64_t* facts, int64_t room) {
  int64_t used = 0, i = 0;
  auto add = [&](char* object) {
    const int64_t found = describe(api, object, moving <= i && i < still, addresses[i], facts + used, room - used);
    used += found, i++;
    return found;
  };
  for (int64_t at = 0, count = api.size(list); at < count; at++)
    if (const int64_t found = add(api.item(list, at)); found < 0) return found;
  const int64_t of_dict = api.size(keys);
  for (int64_t at = 0, count = api.size(dicts); at < count; at++)
    for (int64_t key = 0; key < of_dict; key++)
      if (const int64_t found = add(api.value(api.item(dicts, at), api.item(keys, key))); found < 0) return found;
  return used;
}

// Tells autograd that the tensors of a list were written to; false where torch refuses one.
inline bool bump_versions(const TensorApi& api, void* list) {
  try {
    for (int64_t i = 0, count = api.size(list); i < count; i++) api.bump_version(api.item(list, i) + api.impl_at);
  } catch (...) {
    return false;
  }
  return true;
}

// One float on the CPU, as describe() has found it.
inline float& number(const TensorApi& api, void* list, int64_t i) {
  void* address = nullptr;
  api.data_ptr(api.item(list, i) + api.impl_at, &address);
  return *static_cast<float*>(address);
}

// Reads a list of such tensors; whether all are equal.
inline bool counts(const TensorApi& api, void* list, double* counts) {
  bool equal = true;
  for (int64_t i = 0, count = api.size(list); i < count; i++) {
    counts[i] = double(number(api, list, i));
    equal = equal && counts[i] == counts[0];
  }
  return equal;
}

// Adds 1 to each, and tells autograd; false where torch refuses to be told.
inline bool advance(const TensorApi& api, void* list) {
  for (int64_t i = 0, count = api.size(list); i < count; i++) number(api, list, i) += 1;
  return bump_versions(api, list);
}
